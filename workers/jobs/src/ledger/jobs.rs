//! Jobs: accept, claim, list inputs.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::{JobRecord, Ledger, LedgerError};
use crate::JobId;
use crate::job::{NewItem, NewJob};
use crate::queue::Route;
use crate::time::{Millis, later};

/// Result of [`Ledger::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New(JobRecord),
    /// The job was accepted before; this is its record.
    Same(JobRecord),
    /// Its id or key belongs to a job with another request.
    Conflict {
        existing: JobId,
    },
}

/// Claim of a job itself, to list its inputs or gather its results. It ends with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobClaim {
    pub id: JobId,
    /// Fencing token: the number of claims, including this one.
    pub attempt: i64,
    /// Record of the job at the time of the claim.
    pub record: JobRecord,
}

/// Maximum rows of one INSERT: each has five values, and SQLite takes 32,766 in all.
const MAX_ROWS: usize = 500;

impl Ledger {
    /// Inserts a job, unless its id or key is known. Its durations begin now.
    ///
    /// # Errors
    /// The ledger cannot be reached. The job may have been inserted; another call tells.
    pub async fn accept(&self, job: &NewJob, now: Millis) -> Result<Accepted, LedgerError> {
        let inserted = sqlx::query(
            "INSERT INTO jobs (id, key, request_sha256, message, state, due_at, rung_at, accepted_at, not_before, deadline,
                               traceparent, tracestate)
             VALUES ($1, $2, $3, $4, 'accepted', COALESCE($6, $5), $5, $5, $6, $7, $8, $9)
             ON CONFLICT DO NOTHING
             RETURNING *",
        )
        .bind(job.id.as_str())
        .bind(job.key.as_str())
        .bind(job.request_sha256.as_str())
        .bind(job.message.as_str())
        .bind(now)
        .bind(job.not_before.map(|time| time.resolve(now)))
        .bind(job.deadline.map(|time| time.resolve(now)))
        .bind(job.trace.traceparent())
        .bind(job.trace.tracestate());
        if let Some(row) = self.written(inserted).await? {
            return Ok(Accepted::New(JobRecord::read(&row)?));
        }
        // Two rows when the id belongs to one job and the key to another; a row with another request comes first.
        let known = sqlx::query(
            "SELECT * FROM jobs WHERE id = $1 OR key = $2
             ORDER BY CASE WHEN request_sha256 = $3 THEN 1 ELSE 0 END, CASE WHEN id = $1 THEN 0 ELSE 1 END
             LIMIT 1",
        )
        .bind(job.id.as_str())
        .bind(job.key.as_str())
        .bind(job.request_sha256.as_str())
        .fetch_one(&self.pool)
        .await?;
        let known = JobRecord::read(&known)?;
        if known.request_sha256 == job.request_sha256 {
            Ok(Accepted::Same(known))
        } else {
            Ok(Accepted::Conflict { existing: known.id })
        }
    }

    /// Returns a job; `None` if there is none.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        let query = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id.as_str());
        query.fetch_optional(&self.pool).await?.as_ref().map(JobRecord::read).transpose()
    }

    /// Returns `limit` jobs, newest first, from the start or after the last job of the previous page (time of acceptance,
    /// id).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn jobs(
        &self,
        after: Option<(Millis, &JobId)>,
        limit: u32,
    ) -> Result<Vec<JobRecord>, LedgerError> {
        // No job is accepted at the maximum time.
        let (accepted_at, id) = after.map_or((Millis::MAX, ""), |(at, id)| (at, id.as_str()));
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE (accepted_at, id) < ($1, $2) ORDER BY accepted_at DESC, id DESC LIMIT $3",
        )
        .bind(accepted_at)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(JobRecord::read).collect()
    }

    /// Claims a job that is due, has not ended and is unclaimed. An accepted job becomes validating.
    ///
    /// # Errors
    /// The ledger cannot be reached. The job may have been claimed; then its lease expires.
    pub async fn claim_job(
        &self,
        id: &JobId,
        worker: &str,
        now: Millis,
        lease: Duration,
    ) -> Result<Option<JobClaim>, LedgerError> {
        let claim = sqlx::query(
            "UPDATE jobs
             SET attempt = attempt + 1, worker = $2, lease_until = $4, due_at = NULL,
                 state = CASE WHEN state = 'accepted' THEN 'validating' ELSE state END,
                 validating_at = CASE WHEN state = 'accepted' THEN $3 ELSE validating_at END
             WHERE id = $1
                 AND state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled', 'expired')
                 AND (not_before IS NULL OR not_before <= $3 OR state = 'finalizing')
                 AND (lease_until IS NULL OR lease_until < $3)
             RETURNING *",
        )
        .bind(id.as_str())
        .bind(worker)
        .bind(now)
        .bind(later(now, lease));
        let Some(row) = self.written(claim).await? else { return Ok(None) };
        let record = JobRecord::read(&row)?;
        Ok(Some(JobClaim { id: record.id.clone(), attempt: record.attempt, record }))
    }

    /// Renews the lease of a job. Returns `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn renew_job_lease(
        &self,
        claim: &JobClaim,
        now: Millis,
        lease: Duration,
    ) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs SET lease_until = $3 WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        );
        self.changed(query.bind(claim.id.as_str()).bind(claim.attempt).bind(later(now, lease))).await
    }

    /// Inserts a page of items, the first of them at `first_position`. Known items stay as they are, so a page may be
    /// repeated. The caller sends their messages. Returns `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached. The page was inserted whole or not at all.
    pub async fn add_items(
        &self,
        claim: &JobClaim,
        items: &[NewItem],
        first_position: i64,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        // Locks the job's row until the commit, so that no other worker claims it in between. SQLite also needs a
        // transaction to begin with a write.
        let held = sqlx::query(
            "UPDATE jobs SET attempt = attempt WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        );
        let held = held.bind(claim.id.as_str()).bind(claim.attempt).execute(&mut *transaction).await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        let mut position = first_position;
        for page in items.chunks(MAX_ROWS) {
            let mut insert =
                sqlx::query(AssertSqlSafe(insert_items(page.len()))).bind(claim.id.as_str()).bind(now);
            for item in page {
                insert = insert.bind(item.id.as_str()).bind(position).bind(item.queue.lane.as_str());
                insert =
                    insert.bind(item.queue.route.as_ref().map(Route::as_str)).bind(item.message.as_str());
                position += 1;
            }
            insert.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Saves the cursor of the listing and renews the lease. Returns `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn save_cursor(
        &self,
        claim: &JobClaim,
        cursor: &str,
        next_position: i64,
        now: Millis,
        lease: Duration,
    ) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs SET cursor = $3, next_position = $4, lease_until = $5
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        );
        let query = query.bind(claim.id.as_str()).bind(claim.attempt).bind(cursor).bind(next_position);
        self.changed(query.bind(later(now, lease))).await
    }

    /// Records that every item is known: the job becomes queued, and the claim ends. Returns `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn finish_listing(&self, claim: &JobClaim, now: Millis) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs
             SET state = 'queued', queued_at = $3, worker = NULL, lease_until = NULL,
                 total = (SELECT COUNT(*) FROM items WHERE items.job_id = jobs.id)
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL AND state = 'validating'",
        );
        self.changed(query.bind(claim.id.as_str()).bind(claim.attempt).bind(now)).await
    }
}

fn insert_items(rows: usize) -> String {
    // $1: the job; $2: now; then five values per item.
    let row = |row: usize| {
        let values: Vec<String> = (0..5).map(|value| format!("${}", 5 * row + 3 + value)).collect();
        format!("($1, 'queued', $2, $2, {})", values.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO items (job_id, state, due_at, rung_at, id, position, lane, route, message) VALUES {}
         ON CONFLICT (job_id, id) DO NOTHING",
        rows.join(", ")
    )
}
