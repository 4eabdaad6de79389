//! The sweep: what somebody should be told about. Each call marks what it returns as rung, so of several sweepers only
//! one rings.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::items::BACK;
use super::record::{item_id, job_id, trace};
use super::{Ledger, LedgerError};
use crate::job::{ItemId, JobId, Millis, earlier};
use crate::trace::TraceContext;

/// Where the job of an item that is returned belongs among traces.
const TRACE: &str = "(SELECT traceparent FROM jobs WHERE jobs.id = items.job_id) AS traceparent,
             (SELECT tracestate FROM jobs WHERE jobs.id = items.job_id) AS tracestate";

/// Ring for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bell {
    pub job: JobId,
    pub item: ItemId,
    /// The message's body as it was sent.
    pub message: String,
    /// Where its job belongs among traces.
    pub trace: TraceContext,
}

/// Ring for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobBell {
    pub id: JobId,
    /// The message's body as it was sent.
    pub message: String,
    /// Where it belongs among traces.
    pub trace: TraceContext,
}

impl Ledger {
    /// Items whose worker has fallen silent: they are queued, due now, or have ended with their job.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn expired_items(&self, now: Millis, limit: u32) -> Result<Vec<Bell>, LedgerError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items SET {BACK}, due_at = $1, rung_at = $1, lost = lost + 1, worker = NULL, lease_until = NULL
             WHERE state = 'running' AND lease_until < $1 AND (job_id, id) IN (
                 SELECT job_id, id FROM items WHERE state = 'running' AND lease_until < $1 ORDER BY lease_until LIMIT $2
             )
             RETURNING job_id, id, message, {TRACE}",
            BACK = BACK.replace("$4", "$1"),
        )))
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Bell::read).collect()
    }

    /// Items that are due, and for which nobody has rung for so long that their bell must be lost. Items that merely
    /// wait in a long queue look the same: ask only while the queue is empty.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn forgotten_items(
        &self,
        now: Millis,
        silent_for: Duration,
        limit: u32,
    ) -> Result<Vec<Bell>, LedgerError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items SET rung_at = $1
             WHERE state = 'queued' AND due_at <= $1 AND rung_at < $2 AND (job_id, id) IN (
                 SELECT job_id, id FROM items WHERE state = 'queued' AND due_at <= $1 AND rung_at < $2
                 ORDER BY rung_at LIMIT $3
             )
             RETURNING job_id, id, message, {TRACE}",
        )))
        .bind(now)
        .bind(earlier(now, silent_for))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Bell::read).collect()
    }

    /// Jobs that nobody holds although there is something to do: their time has come since somebody rang for them; or
    /// nobody has rung for longer than `silent_for`, and there are inputs to list or results to gather.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn due_jobs(
        &self,
        now: Millis,
        silent_for: Duration,
        limit: u32,
    ) -> Result<Vec<JobBell>, LedgerError> {
        let rows = sqlx::query(
            "UPDATE jobs SET rung_at = $1
             WHERE (rung_at < $2 OR rung_at < due_at) AND (lease_until IS NULL OR lease_until < $1)
                 AND state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired')
                 AND id IN (
                     SELECT id FROM jobs
                     WHERE (rung_at < $2 OR rung_at < due_at) AND (lease_until IS NULL OR lease_until < $1)
                         AND state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired')
                         AND (due_at <= $1 OR (due_at IS NULL AND rung_at < $2 AND (total IS NULL OR NOT EXISTS (
                             SELECT 1 FROM items WHERE items.job_id = jobs.id AND items.state IN ('queued', 'running')
                         ))))
                     ORDER BY rung_at LIMIT $3
                 )
             RETURNING id, message, traceparent, tracestate",
        )
        .bind(now)
        .bind(earlier(now, silent_for))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(JobBell::read).collect()
    }
}

impl Ledger {
    /// Jobs that were not done by their deadline; [`end_early`](Self::end_early) them.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn overdue_jobs(&self, now: Millis, limit: u32) -> Result<Vec<JobId>, LedgerError> {
        let rows = sqlx::query(
            "SELECT id FROM jobs
             WHERE deadline < $1 AND deadline IS NOT NULL
                 AND state NOT IN ('finalizing', 'succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired')
             ORDER BY deadline LIMIT $2",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| job_id(row, "id")).collect()
    }
}

impl Bell {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self {
            job: job_id(row, "job_id")?,
            item: item_id(row, "id")?,
            message: row.try_get("message")?,
            trace: trace(row)?,
        })
    }
}

impl JobBell {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self { id: job_id(row, "id")?, message: row.try_get("message")?, trace: trace(row)? })
    }
}
