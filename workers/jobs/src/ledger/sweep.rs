//! Rows that need a message. Each call marks the rows that it returns as announced, so only one of several sweepers gets
//! each row.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::items::REQUEUE;
use super::record::{address, item_id, job_id, trace};
use super::{Ledger, LedgerError};
use crate::queue::{Address, Route};
use crate::time::{Millis, earlier};
use crate::trace::TraceContext;
use crate::{ItemId, JobId};

/// Trace of the returned item's job. In this file, the column `rung_at` is the time of the last message.
const TRACE: &str = "(SELECT traceparent FROM jobs WHERE jobs.id = items.job_id) AS traceparent,
             (SELECT tracestate FROM jobs WHERE jobs.id = items.job_id) AS tracestate";

/// Maximum ids of one statement.
const MAX_VALUES: usize = 500;

/// Message about an item that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingMessage {
    pub job: JobId,
    pub item: ItemId,
    pub queue: Address,
    /// Parent trace of its job.
    pub trace: TraceContext,
}

/// Message about a job that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingJobMessage {
    pub id: JobId,
    /// Body of the message.
    pub message: String,
    /// Parent trace of the job.
    pub trace: TraceContext,
}

impl Ledger {
    /// Requeues items whose lease has expired, due now; those of a job that was ended early end with it.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn expired_items(&self, now: Millis, limit: u32) -> Result<Vec<PendingMessage>, LedgerError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items SET {REQUEUE}, due_at = $1, rung_at = $1, lost = lost + 1, worker = NULL, lease_until = NULL
             WHERE state = 'running' AND lease_until < $1 AND (job_id, id) IN (
                 SELECT job_id, id FROM items WHERE state = 'running' AND lease_until < $1 ORDER BY lease_until LIMIT $2
             )
             RETURNING job_id, id, lane, route, {TRACE}",
            REQUEUE = REQUEUE.replace("$4", "$1"),
        )))
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(PendingMessage::read).collect()
    }

    /// Returns due items of a route, or of any worker, whose last message is older than `min_age`, so that it must be lost.
    /// Items that wait in a long queue cannot be told from these: pass `None` while the queue holds messages, for only those
    /// whose message was not sent ([`mark_unannounced`](Self::mark_unannounced)).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn unannounced_items(
        &self,
        route: Option<&Route>,
        now: Millis,
        min_age: Option<Duration>,
        limit: u32,
    ) -> Result<Vec<PendingMessage>, LedgerError> {
        // Two statements, because the index finds both forms, and not one that has either.
        let of_route = if route.is_some() { "route = $4" } else { "route IS NULL" };
        let query = AssertSqlSafe(format!(
            "UPDATE items SET rung_at = $1
             WHERE state = 'queued' AND due_at <= $1 AND rung_at < $2 AND (job_id, id) IN (
                 SELECT job_id, id FROM items
                 WHERE {of_route} AND state = 'queued' AND due_at <= $1 AND rung_at < $2
                 ORDER BY rung_at LIMIT $3
             )
             RETURNING job_id, id, lane, route, {TRACE}",
        ));
        // Without a message the time of the last one is 0.
        let before = min_age.map_or(1, |age| earlier(now, age));
        let mut query = sqlx::query(query).bind(now).bind(before).bind(i64::from(limit));
        if let Some(route) = route {
            query = query.bind(route.as_str());
        }
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(PendingMessage::read).collect()
    }

    /// Records that the last messages about these items were not sent, because their route has no queue. The next sweep of a
    /// worker with the route sends new ones.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn mark_unannounced(&self, job: &JobId, items: &[&ItemId]) -> Result<(), LedgerError> {
        for items in items.chunks(MAX_VALUES) {
            let places: Vec<_> = (2..items.len() + 2).map(|n| format!("${n}")).collect();
            let sql = format!(
                "UPDATE items SET rung_at = 0 WHERE job_id = $1 AND state = 'queued' AND id IN ({})",
                places.join(", ")
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(job.as_str());
            for item in items {
                query = query.bind(item.as_str());
            }
            query.execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Returns unclaimed jobs with work to do: they have become due since their last message; or the last message is older
    /// than `min_age`, and there are inputs to list or results to gather.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn due_jobs(
        &self,
        now: Millis,
        min_age: Duration,
        limit: u32,
    ) -> Result<Vec<PendingJobMessage>, LedgerError> {
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
        .bind(earlier(now, min_age))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(PendingJobMessage::read).collect()
    }
}

impl Ledger {
    /// Returns jobs whose deadline has passed. The caller ends them with [`end_early`](Self::end_early).
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

impl PendingMessage {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self {
            job: job_id(row, "job_id")?,
            item: item_id(row, "id")?,
            queue: address(row)?,
            trace: trace(row)?,
        })
    }
}

impl PendingJobMessage {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        Ok(Self { id: job_id(row, "id")?, message: row.try_get("message")?, trace: trace(row)? })
    }
}
