//! The report of an item, and the keys of the result objects.

use inference::report::{Outcome, ReportBody};
use jobs::ledger::ItemClaim;
use jobs::state::ItemEnd;
use jobs::{Failure, ItemId, JobId};
use serde::{Deserialize, Serialize};

use super::{Item, SupportVersion};

/// Schema version of [`ItemReport`].
pub const REPORT_SCHEMA: &str = "flamingo.item_report/1";

/// Largest report in bytes.
pub const MAX_REPORT_BYTES: u64 = 64 << 20;

/// Report of an item of a job, as the store keeps it; also a line of `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemReport {
    pub schema: String,
    pub job_id: JobId,
    pub item_id: ItemId,
    /// Hash of the answered request ([`Item::request_sha256`]). Reports of the version before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// Number of the claim that wrote it, and the worker.
    pub attempt: i64,
    pub worker: String,
    pub input: InputInfo,
    /// Seconds of the download.
    pub fetch_s: f64,
    /// Support set of the examples that the answers name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShotReport>,
    #[serde(flatten)]
    pub body: ReportBody,
}

/// Support set of an item, and the examples of it that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FewShotReport {
    pub support: SupportVersion,
    /// Number of examples that can be chosen.
    pub examples: usize,
    /// The first of the examples that cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Number of further examples that cannot be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_left_out: usize,
}

/// Example that cannot be used, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub media: String,
    pub code: String,
    pub message: String,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Identity of the analysed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputInfo {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl ItemReport {
    /// Combines the claim, the item, the input and the body of a report.
    pub fn new(
        claim: &ItemClaim,
        item: &Item,
        worker: &str,
        input: InputInfo,
        fetch_s: f64,
        body: ReportBody,
    ) -> Self {
        Self {
            schema: REPORT_SCHEMA.into(),
            job_id: claim.job.clone(),
            item_id: claim.item.clone(),
            request_sha256: Some(item.request_sha256()),
            custom_id: item.custom_id.clone(),
            attempt: claim.attempt,
            worker: worker.into(),
            input,
            fetch_s,
            few_shot: None,
            body,
        }
    }

    /// Parses a stored report.
    ///
    /// # Errors
    /// The bytes are not a report.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Checks that this is the report of `item`: job, item and request are the same. A report of the version before has no
    /// hash of its request, so its ids decide.
    ///
    /// # Errors
    /// The difference, as a text.
    pub fn check_item(&self, item: &Item) -> Result<(), String> {
        if (&self.job_id, &self.item_id) != (&item.job_id, &item.item_id) {
            return Err(format!("it is the report of {}/{}", self.job_id, self.item_id));
        }
        match &self.request_sha256 {
            Some(hash) if *hash != item.request_sha256() => Err("it answers another request".into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the report as indented JSON.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a report serializes")
    }

    /// Returns how the item ended, for the ledger.
    pub fn end(&self) -> ItemEnd {
        match &self.body.outcome {
            Outcome::Succeeded { .. } => ItemEnd::Succeeded,
            Outcome::Failed { error, .. } => ItemEnd::Failed(Failure::new(&error.code, &error.message)),
        }
    }
}

/// Line of `errors.jsonl`: an item that failed or was cancelled.
#[derive(Serialize)]
pub struct ErrorLine<'r> {
    pub item_id: &'r ItemId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<InputInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    pub error: Option<&'r Failure>,
}

/// Returns the result folder of a job.
pub fn job_folder(output: &str, job: &JobId) -> String {
    if output.is_empty() { job.to_string() } else { format!("{output}/{job}") }
}

/// Bytes of the longest item id.
const LONGEST_ITEM: usize = 180;

/// Returns a key as long as the longest one of a job's results.
pub fn longest_key(output: &str, job: &JobId) -> String {
    format!("{}/items/{}.json", job_folder(output, job), "x".repeat(LONGEST_ITEM))
}

/// Returns the key of the report of an item.
pub fn report_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.json", job_folder(output, job))
}

/// Returns the key of the contact sheet of an item.
pub fn sheet_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.jpg", job_folder(output, job))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Report of the version before: pairs of role and hash, `sees` and `recalled`.
    const PREVIOUS: &str = r#"{
        "schema": "flamingo.item_report/1", "job_id": "birds", "item_id": "a.mp4", "custom_id": "first", "attempt": 2,
        "worker": "host-7", "input": {"url": "s3://b/a.mp4", "bytes": 1234, "etag": "e1"},
        "status": "failed", "error": {"code": "no_frames", "message": "a.mp4: no frames"},
        "answers": [{"question": "What?", "text": "a cat", "start": 0.5, "end": 2.0, "frame_times": [[0.5, 1.5]],
            "finish": "stop", "log_likelihood": -1.25, "prompt_tokens": 7, "completion_tokens": 3}],
        "model": {"name": "mini", "family": "flamingo", "sha256": [["adapters", "ab"]], "sees": true},
        "videos": [{"container": "mov", "codec": "h264", "width": 320, "height": 240,
            "orientation": {"clockwise_degrees": 0, "mirrored": false},
            "duration": 7.5, "frames": 75, "average_fps": 10.0, "start_pts": -0.1}],
        "warnings": ["a.mp4: one"], "recalled": true, "fetch_s": 0.4,
        "timing": {"decode_s": 0.1, "encode_s": 0.2, "answer_s": 0.3, "total_s": 0.7}}"#;

    #[test]
    fn reads_reports_of_both_versions() {
        let report = ItemReport::parse(PREVIOUS.as_bytes()).unwrap();
        let failure = Failure::new("no_frames", "a.mp4: no frames");
        assert_eq!(report.end(), ItemEnd::Failed(failure));
        assert_eq!((report.body.answers()[0].text.as_str(), report.body.answers()[0].frames()), ("a cat", 2));
        assert!(report.body.cache_hit && report.body.model.gates_open);
        assert_eq!(report.body.model.sha256["adapters"], "ab");
        let written = String::from_utf8(report.json()).unwrap();
        assert!(written.contains(r#""cache_hit": true"#) && !written.contains("recalled"), "{written}");
        assert_eq!(ItemReport::parse(written.as_bytes()).unwrap(), report);
    }

    #[test]
    fn refuses_objects_that_are_no_reports() {
        let without = |name: &str| {
            let mut report: serde_json::Map<_, _> = serde_json::from_str(PREVIOUS).unwrap();
            report.remove(name).unwrap();
            ItemReport::parse(serde_json::to_string(&report).unwrap().as_bytes())
        };
        for name in ["status", "error", "job_id", "input", "model", "timing"] {
            assert!(without(name).is_err(), "{name}");
        }
        assert!(!without("recalled").unwrap().body.cache_hit);
        assert!(ItemReport::parse(b"[]").is_err());
    }
}
