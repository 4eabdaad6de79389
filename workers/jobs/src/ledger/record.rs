//! Rows of the ledger as Rust types.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::LedgerError;
use crate::queue::{Address, Lane, Route};
use crate::state::{ItemState, JobState};
use crate::time::Millis;
use crate::trace::TraceContext;
use crate::{Failure, ItemId, JobId};

/// Record of a job, without its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    pub id: JobId,
    pub key: String,
    pub request_sha256: String,
    /// Body of the job message.
    pub message: String,
    pub state: JobState,
    /// Number of claims.
    pub attempt: i64,
    /// Worker that has claimed the job itself.
    pub worker: Option<String>,
    /// End of the claim's lease.
    pub lease_until: Option<Millis>,
    /// Cursor of the next page of inputs.
    pub cursor: Option<String>,
    pub next_position: i64,
    /// Number of items, once all of them are known.
    pub total: Option<u64>,
    pub failure: Option<Failure>,
    /// Earliest start.
    pub not_before: Option<Millis>,
    /// Time at which the job expires.
    pub deadline: Option<Millis>,
    /// Parent trace of the work on the job.
    pub trace: TraceContext,
    entered_at: [Option<Millis>; JobState::ALL.len()],
}

impl JobRecord {
    /// Returns the time at which the job entered a state.
    pub fn entered_at(&self, state: JobState) -> Option<Millis> {
        // `ALL` has the order of declaration.
        self.entered_at[state as usize]
    }

    /// Returns whether all of its inputs are known.
    pub fn is_listed(&self) -> bool {
        self.entered_at(JobState::Queued).is_some()
    }

    /// Returns the time of acceptance.
    pub fn accepted_at(&self) -> Millis {
        self.entered_at(JobState::Accepted).unwrap_or_default()
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        let mut entered_at = [None; JobState::ALL.len()];
        for state in JobState::ALL {
            entered_at[state as usize] = row.try_get(format!("{}_at", state.as_str()).as_str())?;
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
            entered_at,
        })
    }
}

/// Record of an item, without its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRecord {
    pub id: ItemId,
    /// Position among the job's items, from 0.
    pub position: i64,
    pub state: ItemState,
    /// Number of claims.
    pub attempt: i64,
    /// Number of claims that were released (column `given_back`).
    pub released: i64,
    /// Number of claims whose worker was lost, by a crash or a fault (column `lost`).
    pub worker_losses: i64,
    /// Earliest next claim.
    pub due_at: Millis,
    /// Worker that has claimed it.
    pub worker: Option<String>,
    /// End of the claim's lease.
    pub lease_until: Option<Millis>,
    /// Last reported progress, as JSON.
    pub progress: Option<String>,
    /// Reason of its failure, or of its last attempt's failure.
    pub failure: Option<Failure>,
    /// Time of the last claim.
    pub claimed_at: Option<Millis>,
    pub ended_at: Option<Millis>,
}

impl ItemRecord {
    /// Returns the number of attempts. Released claims and lost workers are no attempts.
    pub fn attempts(&self) -> u64 {
        attempts(self.attempt, self.released, self.worker_losses)
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self {
            id: item_id(row, "id")?,
            position: row.try_get("position")?,
            state: item_state(row, "state")?,
            attempt: row.try_get("attempt")?,
            released: row.try_get("given_back")?,
            worker_losses: row.try_get("lost")?,
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

/// Counts attempts: neither a released claim nor a lost worker is one.
pub(super) fn attempts(claims: i64, released: i64, worker_losses: i64) -> u64 {
    u64::try_from(claims - released - worker_losses).unwrap_or(0)
}

pub(super) fn failure(row: &AnyRow) -> Result<Option<Failure>, LedgerError> {
    let code: Option<String> = row.try_get("failure_code")?;
    let message: Option<String> = row.try_get("failure_message")?;
    Ok(code.map(|code| Failure::new(code, message.unwrap_or_default())))
}

pub(super) fn trace(row: &AnyRow) -> Result<TraceContext, LedgerError> {
    let parent: Option<String> = row.try_get("traceparent")?;
    let state: Option<String> = row.try_get("tracestate")?;
    Ok(TraceContext::parse(parent.as_deref(), state.as_deref()))
}

/// Reads the queue of an item.
pub(super) fn address(row: &AnyRow) -> Result<Address, LedgerError> {
    Ok(Address { lane: lane(row)?, route: route(row)? })
}

pub(super) fn route(row: &AnyRow) -> Result<Option<Route>, LedgerError> {
    Ok(row.try_get::<Option<String>, _>("route")?.map(Route::new))
}

/// Reads the lane of an item. Rows of builds before the column `lane` have none and belong to the normal lane.
fn lane(row: &AnyRow) -> Result<Lane, LedgerError> {
    let Some(text) = row.try_get::<Option<String>, _>("lane")? else { return Ok(Lane::Items) };
    let known = Lane::ALL.into_iter().find(|lane| lane.as_str() == text);
    known.ok_or_else(|| LedgerError::BadRow(format!("{text:?} is not a lane")))
}

pub(super) fn count(value: i64, column: &str) -> Result<u64, LedgerError> {
    u64::try_from(value).map_err(|_| LedgerError::BadRow(format!("{column} is {value}")))
}

pub(super) fn job_id(row: &AnyRow, column: &str) -> Result<JobId, LedgerError> {
    JobId::try_from(row.try_get::<String, _>(column)?).map_err(|reason| LedgerError::BadRow(reason.message))
}

pub(super) fn item_id(row: &AnyRow, column: &str) -> Result<ItemId, LedgerError> {
    ItemId::try_from(row.try_get::<String, _>(column)?).map_err(|reason| LedgerError::BadRow(reason.message))
}

pub(super) fn job_state(row: &AnyRow, column: &str) -> Result<JobState, LedgerError> {
    let text: String = row.try_get(column)?;
    let known = JobState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| LedgerError::BadRow(format!("{text:?} is not a job state")))
}

pub(super) fn item_state(row: &AnyRow, column: &str) -> Result<ItemState, LedgerError> {
    let text: String = row.try_get(column)?;
    let known = ItemState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| LedgerError::BadRow(format!("{text:?} is not an item state")))
}
