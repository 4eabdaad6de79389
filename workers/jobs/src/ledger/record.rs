//! Rows of the ledger as Rust sees them.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::LedgerError;
use crate::job::{Failure, ItemId, ItemState, JobId, JobState, Millis};
use crate::trace::TraceContext;

/// All that the ledger knows about a job, except its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    pub id: JobId,
    pub key: String,
    pub request_sha256: String,
    /// The message's body as it was sent.
    pub message: String,
    pub state: JobState,
    /// How often it has been claimed.
    pub attempt: i64,
    /// Who works on the job itself, and until when without a heartbeat.
    pub worker: Option<String>,
    pub lease_until: Option<Millis>,
    /// How far the listing of inputs has come.
    pub cursor: Option<String>,
    pub next_position: i64,
    /// How many items; known once all of them are.
    pub total: Option<u64>,
    pub failure: Option<Failure>,
    /// Not to be begun before.
    pub not_before: Option<Millis>,
    /// Ended as expired when it has not ended by itself.
    pub deadline: Option<Millis>,
    /// Where the work on it belongs among traces.
    pub trace: TraceContext,
    entered: [Option<Millis>; JobState::ALL.len()],
}

impl JobRecord {
    /// When it entered a state.
    pub fn entered(&self, state: JobState) -> Option<Millis> {
        // `ALL` is in the order of declaration.
        self.entered[state as usize]
    }

    /// Whether all of its inputs are known.
    pub fn is_listed(&self) -> bool {
        self.entered(JobState::Queued).is_some()
    }

    /// When it was accepted.
    pub fn accepted_at(&self) -> Millis {
        self.entered(JobState::Accepted).unwrap_or_default()
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        let mut entered = [None; JobState::ALL.len()];
        for state in JobState::ALL {
            entered[state as usize] = row.try_get(format!("{}_at", state.as_str()).as_str())?;
        }
        Ok(Self {
            id: job_id(row, "id")?,
            key: row.try_get("key")?,
            request_sha256: row.try_get("request_sha256")?,
            message: row.try_get("message")?,
            state: job_state(row, "state")?,
            attempt: row.try_get("attempt")?,
            worker: row.try_get("worker")?,
            lease_until: row.try_get("lease_until")?,
            cursor: row.try_get("cursor")?,
            next_position: row.try_get("next_position")?,
            total: row.try_get::<Option<i64>, _>("total")?.map(|total| count(total, "total")).transpose()?,
            failure: failure(row)?,
            not_before: row.try_get("not_before")?,
            deadline: row.try_get("deadline")?,
            trace: trace(row)?,
            entered,
        })
    }
}

/// All that the ledger knows about an item, except its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRecord {
    pub id: ItemId,
    /// Its place among the job's items.
    pub position: i64,
    pub state: ItemState,
    /// How often it has been claimed.
    pub attempt: i64,
    /// How many of these claims were given back.
    pub given_back: i64,
    /// How many of them ended with their worker: without a word from it, or because it was broken.
    pub lost: i64,
    /// Not to be claimed before.
    pub due_at: Millis,
    /// Who works on it, and until when without a heartbeat.
    pub worker: Option<String>,
    pub lease_until: Option<Millis>,
    /// How far its worker has come, as it said last: JSON.
    pub progress: Option<String>,
    /// Why it has failed, or why its last attempt has.
    pub failure: Option<Failure>,
    /// When it was claimed last.
    pub claimed_at: Option<Millis>,
    pub ended_at: Option<Millis>,
}

impl ItemRecord {
    /// Attempts that counted.
    pub fn attempts(&self) -> i64 {
        self.attempt - self.given_back - self.lost
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self {
            id: item_id(row, "id")?,
            position: row.try_get("position")?,
            state: item_state(row, "state")?,
            attempt: row.try_get("attempt")?,
            given_back: row.try_get("given_back")?,
            lost: row.try_get("lost")?,
            due_at: row.try_get("due_at")?,
            worker: row.try_get("worker")?,
            lease_until: row.try_get("lease_until")?,
            progress: row.try_get("progress")?,
            failure: failure(row)?,
            claimed_at: row.try_get("claimed_at")?,
            ended_at: row.try_get("ended_at")?,
        })
    }
}

pub(super) fn failure(row: &AnyRow) -> Result<Option<Failure>, LedgerError> {
    let code: Option<String> = row.try_get("failure_code")?;
    let message: Option<String> = row.try_get("failure_message")?;
    Ok(code.map(|code| Failure::new(code, message.unwrap_or_default())))
}

pub(super) fn trace(row: &AnyRow) -> Result<TraceContext, LedgerError> {
    let parent: Option<String> = row.try_get("traceparent")?;
    let state: Option<String> = row.try_get("tracestate")?;
    Ok(TraceContext::read(parent.as_deref(), state.as_deref()))
}

pub(super) fn count(value: i64, column: &str) -> Result<u64, LedgerError> {
    u64::try_from(value).map_err(|_| LedgerError::Row(format!("{column} is {value}")))
}

pub(super) fn job_id(row: &AnyRow, column: &str) -> Result<JobId, LedgerError> {
    JobId::try_from(row.try_get::<String, _>(column)?).map_err(|why| LedgerError::Row(why.message))
}

pub(super) fn item_id(row: &AnyRow, column: &str) -> Result<ItemId, LedgerError> {
    ItemId::try_from(row.try_get::<String, _>(column)?).map_err(|why| LedgerError::Row(why.message))
}

pub(super) fn job_state(row: &AnyRow, column: &str) -> Result<JobState, LedgerError> {
    let text: String = row.try_get(column)?;
    let known = JobState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| LedgerError::Row(format!("{text:?} is no state of a job")))
}

pub(super) fn item_state(row: &AnyRow, column: &str) -> Result<ItemState, LedgerError> {
    let text: String = row.try_get(column)?;
    let known = ItemState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| LedgerError::Row(format!("{text:?} is no state of an item")))
}
