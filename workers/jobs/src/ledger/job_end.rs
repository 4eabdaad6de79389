//! Ends of jobs: finalize, fail, end early, release.

use sqlx::Row;

use super::{JobClaim, JobRecord, Ledger, LedgerError, outbox};
use crate::queue::Event;
use crate::state::{EarlyEnd, JobEnd};
use crate::time::Millis;
use crate::{Failure, JobId};

impl Ledger {
    /// Makes a job finalizing if every item has ended and all are known, or no more will be. Returns `None` if that is not
    /// so or the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn begin_finalizing(
        &self,
        claim: &JobClaim,
        now: Millis,
    ) -> Result<Option<JobRecord>, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs
             SET state = 'finalizing', finalizing_at = COALESCE(finalizing_at, $3),
                 total = COALESCE(total, (SELECT COUNT(*) FROM items WHERE items.job_id = jobs.id))
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL
                 AND (total IS NOT NULL OR state = 'finalizing')
                 AND NOT EXISTS (
                     SELECT 1 FROM items WHERE items.job_id = $1 AND items.state IN ('queued', 'running')
                 )
             RETURNING *",
        );
        let query = query.bind(claim.id.as_str()).bind(claim.attempt).bind(now);
        self.written(query).await?.as_ref().map(JobRecord::read).transpose()
    }

    /// Fails a job: it becomes finalizing with its failure, and its open items fail with it. Returns `false` if the claim is
    /// stale. May be repeated.
    ///
    /// # Errors
    /// The ledger cannot be reached. The change was made whole or not at all.
    pub async fn fail_job(
        &self,
        claim: &JobClaim,
        reason: &Failure,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let failed = sqlx::query(
            "UPDATE jobs
             SET state = 'finalizing', finalizing_at = COALESCE(finalizing_at, $3), failure_code = $4,
                 failure_message = $5, total = (SELECT COUNT(*) FROM items WHERE items.job_id = jobs.id)
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        )
        .bind(claim.id.as_str())
        .bind(claim.attempt)
        .bind(now)
        .bind(reason.code.as_str())
        .bind(reason.message.as_str())
        .execute(&mut *transaction)
        .await?;
        if failed.rows_affected() == 0 {
            return Ok(false);
        }
        let open = sqlx::query(
            "UPDATE items
             SET state = 'failed', failure_code = $2, failure_message = $3, worker = NULL, lease_until = NULL, ended_at = $4
             WHERE job_id = $1 AND state IN ('queued', 'running')",
        );
        let open =
            open.bind(claim.id.as_str()).bind(reason.code.as_str()).bind(reason.message.as_str()).bind(now);
        open.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends a job early: it becomes finalizing with the reason, its open items will be cancelled
    /// ([`cancel_open_items`](Self::cancel_open_items)), and no further item begins. The claim of the job becomes stale. The
    /// holder of an item learns it by the next heartbeat and releases the item, unless it has ended before. Returns `false`
    /// if there is no such job, or it has ended or is finalizing.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn end_early(&self, id: &JobId, end: EarlyEnd, now: Millis) -> Result<bool, LedgerError> {
        let reason = end.failure();
        // Due and unannounced: the next sweep sends a message.
        let query = sqlx::query(
            "UPDATE jobs
             SET state = 'finalizing', finalizing_at = $2, failure_code = $3, failure_message = $4,
                 attempt = attempt + 1, worker = NULL, lease_until = NULL, due_at = $2, rung_at = 0
             WHERE id = $1 AND state IN ('accepted', 'validating', 'queued', 'running')",
        );
        self.changed(
            query.bind(id.as_str()).bind(now).bind(reason.code.as_str()).bind(reason.message.as_str()),
        )
        .await
    }

    /// Cancels at most `limit` unclaimed items of a job that was ended early, and returns their number. Returns `None` if the
    /// claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn cancel_open_items(
        &self,
        claim: &JobClaim,
        now: Millis,
        limit: u32,
    ) -> Result<Option<u64>, LedgerError> {
        // In batches: a statement over a million rows would block all other callers.
        let cancelled = sqlx::query(
            "UPDATE items SET state = 'cancelled', ended_at = $2
             WHERE job_id = $1 AND state = 'queued' AND id IN (
                 SELECT id FROM items WHERE job_id = $1 AND state = 'queued' LIMIT $3
             ) AND EXISTS (
                 SELECT 1 FROM jobs WHERE jobs.id = $1 AND jobs.attempt = $4 AND jobs.state = 'finalizing'
                     AND jobs.lease_until IS NOT NULL
             )",
        )
        .bind(claim.id.as_str())
        .bind(now)
        .bind(i64::from(limit))
        .bind(claim.attempt)
        .execute(&self.pool)
        .await?
        .rows_affected();
        let held = self.job(&claim.id).await?.is_some_and(|job| job.attempt == claim.attempt);
        Ok(held.then_some(cancelled))
    }

    /// Ends a finalizing job and its claim, and inserts the event of its end into the outbox in the same transaction.
    /// Returns `false` if the claim is stale. May be repeated.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn finish(
        &self,
        claim: &JobClaim,
        end: &JobEnd,
        event: &Event,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let (code, message) = end.failure().map(|reason| (reason.code, reason.message)).unzip();
        let mut transaction = self.pool.begin().await?;
        let query = sqlx::query(
            "UPDATE jobs
             SET news = news + 1, state = $3, failure_code = $4, failure_message = $5, worker = NULL, lease_until = NULL,
                 succeeded_at = CASE WHEN $3 = 'succeeded' THEN $6 END,
                 partially_succeeded_at = CASE WHEN $3 = 'partially_succeeded' THEN $6 END,
                 failed_at = CASE WHEN $3 = 'failed' THEN $6 END,
                 cancelled_at = CASE WHEN $3 = 'cancelled' THEN $6 END,
                 expired_at = CASE WHEN $3 = 'expired' THEN $6 END
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL AND state = 'finalizing'
             RETURNING news",
        );
        let query = query.bind(claim.id.as_str()).bind(claim.attempt).bind(end.state().as_str());
        let finished = query.bind(code).bind(message).bind(now).fetch_all(&mut *transaction).await?;
        if let Some(row) = finished.first() {
            outbox::insert(&mut transaction, &claim.id, row.try_get("news")?, event, now).await?;
            transaction.commit().await?;
            return Ok(true);
        }
        transaction.rollback().await?;
        // An earlier call of ours may have succeeded although its answer was lost.
        let job = self.job(&claim.id).await?;
        Ok(job.is_some_and(|job| job.state == end.state() && job.attempt == claim.attempt))
    }

    /// Releases the claim of a job. The sweep sends its message at `due`; with `None` as soon as there is work, which is when
    /// its last item has ended. That item may have ended while the job was claimed: after a release with `None`, the caller
    /// checks [`has_open_items`](Self::has_open_items) or leaves the job to the sweep. Returns `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn release_job(&self, claim: &JobClaim, due: Option<Millis>) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs SET worker = NULL, lease_until = NULL, due_at = $3
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        );
        self.changed(query.bind(claim.id.as_str()).bind(claim.attempt).bind(due)).await
    }
}
