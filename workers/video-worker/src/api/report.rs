//! The report of an item, and the keys of the result objects.

use flamingo::family::ModelInfo;
use flamingo::video::VideoInfo;
use inference::report::{self, ErrorReport, Outcome, Report, Timing};
use jobs::ledger::ItemClaim;
use jobs::state::ItemEnd;
use jobs::{Failure, ItemId, JobId};
use serde::Serialize;
use serde_json::Value;

/// Schema version of [`ItemReport`].
pub const SCHEMA: &str = "flamingo.item_report/1";

/// Largest report in bytes.
pub const MAX_REPORT_BYTES: u64 = 64 << 20;

/// Report of an item of a job, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemReport {
    pub schema: &'static str,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// Number of the claim that wrote it, and the worker.
    pub attempt: i64,
    pub worker: String,
    pub input: InputInfo,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub model: ModelInfo,
    pub videos: Vec<VideoInfo>,
    pub warnings: Vec<String>,
    /// Whether cached visual tokens were used, so that nothing was decoded.
    #[serde(rename = "recalled", skip_serializing_if = "std::ops::Not::not")]
    pub cache_hit: bool,
    /// Seconds of the download.
    pub fetch_s: f64,
    pub timing: Timing,
}

/// Identity of the analysed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputInfo {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl ItemReport {
    /// Combines the claim, the input and the report of an analysis.
    pub fn new(
        claim: &ItemClaim,
        custom_id: Option<String>,
        worker: &str,
        input: InputInfo,
        fetch_s: f64,
        report: Report,
    ) -> Self {
        let Report { outcome, model, videos, warnings, cache_hit, timing, .. } = report;
        Self {
            schema: SCHEMA,
            job_id: claim.job.clone(),
            item_id: claim.item.clone(),
            custom_id,
            attempt: claim.attempt,
            worker: worker.into(),
            input,
            outcome,
            model,
            videos,
            warnings,
            cache_hit,
            fetch_s,
            timing,
        }
    }

    /// Returns the report of an item that failed before its analysis.
    pub fn failed(
        claim: &ItemClaim,
        custom_id: Option<String>,
        worker: &str,
        input: InputInfo,
        model: ModelInfo,
        why: &Failure,
    ) -> Self {
        let error = ErrorReport { code: why.code.clone(), message: why.message.clone() };
        let report = Report {
            schema: report::SCHEMA,
            input: vec![],
            outcome: Outcome::Failed { error, answers: vec![] },
            model,
            videos: vec![],
            warnings: vec![],
            cache_hit: false,
            timing: Timing::default(),
        };
        Self::new(claim, custom_id, worker, input, 0.0, report)
    }

    /// Returns the report as indented JSON.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a report serializes")
    }

    /// Returns how the item ended, for the ledger.
    pub fn end(&self) -> ItemEnd {
        match &self.outcome {
            Outcome::Succeeded { .. } => ItemEnd::Succeeded,
            Outcome::Failed { error, .. } => ItemEnd::Failed(Failure::new(&error.code, &error.message)),
        }
    }
}

/// Returns the result folder of a job.
pub fn job_folder(output: &str, job: &JobId) -> String {
    if output.is_empty() { job.to_string() } else { format!("{output}/{job}") }
}

/// Returns the key of the report of an item.
pub fn report_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.json", job_folder(output, job))
}

/// Returns the key of the contact sheet of an item.
pub fn sheet_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.jpg", job_folder(output, job))
}

/// Returns how an item ended according to its stored report.
pub fn end_of(report: &[u8]) -> Option<ItemEnd> {
    let report: Value = serde_json::from_slice(report).ok()?;
    match report["status"].as_str()? {
        "succeeded" => Some(ItemEnd::Succeeded),
        "failed" => {
            let Failure { code, message } = serde_json::from_value(report["error"].clone()).ok()?;
            Some(ItemEnd::Failed(Failure::new(code, message)))
        }
        _ => None,
    }
}
