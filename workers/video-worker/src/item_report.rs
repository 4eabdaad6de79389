//! What is said about one video of a job: the report, and whose it is.

use flamingo::family::ModelInfo;
use flamingo::video::VideoInfo;
use jobs::ledger::ItemClaim;
use jobs::state::ItemEnd;
use jobs::{Failure, ItemId, JobId};
use serde::Serialize;

use crate::fetch::InputInfo;
use crate::report::{self, ErrorReport, Outcome, Report, Timing};

/// The version of [`ItemReport`].
pub const SCHEMA: &str = "flamingo.item_report/1";

/// The report of an item of a job, as it stands in the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemReport {
    pub schema: &'static str,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// Which attempt wrote it, and where.
    pub attempt: i64,
    pub worker: String,
    pub input: InputInfo,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub model: ModelInfo,
    pub videos: Vec<VideoInfo>,
    pub warnings: Vec<String>,
    /// The video had been looked at before, and was not decoded again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recalled: bool,
    /// Seconds until the video was here.
    pub fetch_s: f64,
    pub timing: Timing,
}

impl ItemReport {
    pub fn new(
        claim: &ItemClaim,
        custom_id: Option<String>,
        worker: &str,
        input: InputInfo,
        fetch_s: f64,
        report: Report,
    ) -> Self {
        let Report { outcome, model, videos, warnings, recalled, timing, .. } = report;
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
            recalled,
            fetch_s,
            timing,
        }
    }

    /// Of an item that was not looked at.
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
            recalled: false,
            timing: Timing::default(),
        };
        Self::new(claim, custom_id, worker, input, 0.0, report)
    }

    /// As it is written: one object, indented, for people too.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a report becomes JSON")
    }

    /// What the ledger is told.
    pub fn end(&self) -> ItemEnd {
        match &self.outcome {
            Outcome::Succeeded { .. } => ItemEnd::Succeeded,
            Outcome::Failed { error, .. } => ItemEnd::Failed(Failure::new(&error.code, &error.message)),
        }
    }
}
