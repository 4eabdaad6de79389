//! The sweep: what somebody should be told about. Each call marks what it returns as rung, so of several sweepers only
//! one rings.

use std::time::Duration;

use sqlx::Row;
use sqlx::any::AnyRow;

use super::record::{item_id, job_id};
use super::{Ledger, LedgerError};
use crate::job::{ItemId, JobId, Millis, earlier};

/// Ring for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bell {
    pub job: JobId,
    pub item: ItemId,
    /// The message's body as it was sent.
    pub message: String,
}

/// Ring for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobBell {
    pub id: JobId,
    /// The message's body as it was sent.
    pub message: String,
}

impl Ledger {
    /// Items whose worker has fallen silent: they are queued, due now.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn expired_items(&self, now: Millis, limit: u32) -> Result<Vec<Bell>, LedgerError> {
        let rows = sqlx::query(
            "UPDATE items SET state = 'queued', due_at = $1, rung_at = $1, worker = NULL, lease_until = NULL
             WHERE state = 'running' AND lease_until < $1 AND (job_id, id) IN (
                 SELECT job_id, id FROM items WHERE state = 'running' AND lease_until < $1 ORDER BY lease_until LIMIT $2
             )
             RETURNING job_id, id, message",
        )
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
        let rows = sqlx::query(
            "UPDATE items SET rung_at = $1
             WHERE state = 'queued' AND due_at <= $1 AND rung_at < $2 AND (job_id, id) IN (
                 SELECT job_id, id FROM items WHERE state = 'queued' AND due_at <= $1 AND rung_at < $2
                 ORDER BY rung_at LIMIT $3
             )
             RETURNING job_id, id, message",
        )
        .bind(now)
        .bind(earlier(now, silent_for))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Bell::read).collect()
    }

    /// Jobs that nobody holds although there is something to do: inputs to list, results to gather, or their time has
    /// come. Silent for longer than `silent_for`.
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
             WHERE rung_at < $2 AND (lease_until IS NULL OR lease_until < $1)
                 AND state NOT IN ('succeeded', 'partially_succeeded', 'failed')
                 AND id IN (
                     SELECT id FROM jobs
                     WHERE rung_at < $2 AND (lease_until IS NULL OR lease_until < $1)
                         AND state NOT IN ('succeeded', 'partially_succeeded', 'failed')
                         AND (due_at <= $1 OR (due_at IS NULL AND (total IS NULL OR NOT EXISTS (
                             SELECT 1 FROM items WHERE items.job_id = jobs.id AND items.state IN ('queued', 'running')
                         ))))
                     ORDER BY rung_at LIMIT $3
                 )
             RETURNING id, message",
        )
        .bind(now)
        .bind(earlier(now, silent_for))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(JobBell::read).collect()
    }
}

impl Bell {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self { job: job_id(row, "job_id")?, item: item_id(row, "id")?, message: row.try_get("message")? })
    }
}

impl JobBell {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self { id: job_id(row, "id")?, message: row.try_get("message")? })
    }
}
