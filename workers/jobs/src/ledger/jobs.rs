//! Jobs: accepted once, worked on under a lease, ended once.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};

use super::{JobRecord, Ledger, LedgerError, outbox};
use crate::job::{EarlyEnd, Failure, JobEnd, JobId, Millis, NewItem, NewJob, later};
use crate::queue::Event;

/// What has become of a job that asked to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New(JobRecord),
    /// It had been accepted before: this is the one.
    Same(JobRecord),
    /// Its id or its key belongs to a job that asks for something else.
    Conflict {
        existing: JobId,
    },
}

/// The right to work on a job itself: list its inputs, gather its results. Ends with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobClaim {
    pub id: JobId,
    /// The fence.
    pub attempt: i64,
    /// The job as it was when it was claimed.
    pub record: JobRecord,
}

/// Rows of one INSERT: three values each, and SQLite takes 32,766 in all.
const ROWS_AT_ONCE: usize = 500;

impl Ledger {
    /// Enters a job, unless its id or its key is known.
    ///
    /// # Errors
    /// The ledger cannot be reached; whether the job was entered is not known, and asking again tells.
    pub async fn accept(&self, job: &NewJob, now: Millis) -> Result<Accepted, LedgerError> {
        let entered = sqlx::query(
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
        .bind(job.not_before)
        .bind(job.deadline)
        .bind(job.trace.traceparent())
        .bind(job.trace.tracestate());
        if let Some(row) = self.written(entered).await? {
            return Ok(Accepted::New(JobRecord::read(&row)?));
        }
        // Two jobs when the id belongs to one and the key to another; what asks for something else stands first.
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

    /// # Errors
    /// The ledger cannot be reached.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, LedgerError> {
        let query = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id.as_str());
        query.fetch_optional(&self.pool).await?.as_ref().map(JobRecord::read).transpose()
    }

    /// Jobs, newest first: the first `limit`, or those after the last one of the page before (when it was accepted,
    /// its id).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn jobs(
        &self,
        after: Option<(Millis, &JobId)>,
        limit: u32,
    ) -> Result<Vec<JobRecord>, LedgerError> {
        // Nothing is accepted at the end of time.
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

    /// Claims the work on a job itself, when its time has come, it has not ended and nobody holds it. An accepted job is validating from
    /// now.
    ///
    /// # Errors
    /// The ledger cannot be reached; it may have been claimed, then the lease runs out.
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

    /// Heartbeat. `false`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn extend_job(
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

    /// Enters a page of items, the first of them at `first_position`. Items that are known stay as they are, so a page
    /// may come again. Whoever calls this rings for them. `false`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached; all of the page was entered or nothing.
    pub async fn add_items(
        &self,
        claim: &JobClaim,
        items: &[NewItem],
        first_position: i64,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        // Holds the job's row until the commit, so that nobody else claims it in between; and SQLite wants its
        // transactions to begin with a write.
        let held = sqlx::query(
            "UPDATE jobs SET attempt = attempt WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        );
        let held = held.bind(claim.id.as_str()).bind(claim.attempt).execute(&mut *transaction).await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        let mut position = first_position;
        for page in items.chunks(ROWS_AT_ONCE) {
            let mut insert =
                sqlx::query(AssertSqlSafe(insert_items(page.len()))).bind(claim.id.as_str()).bind(now);
            for item in page {
                insert = insert.bind(item.id.as_str()).bind(position).bind(item.message.as_str());
                position += 1;
            }
            insert.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Remembers how far the listing has come; also a heartbeat. `false`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn advance(
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

    /// Every item is known: the job is queued, and the claim ends. `false`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn expanded(&self, claim: &JobClaim, now: Millis) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE jobs
             SET state = 'queued', queued_at = $3, worker = NULL, lease_until = NULL,
                 total = (SELECT COUNT(*) FROM items WHERE items.job_id = jobs.id)
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL AND state = 'validating'",
        );
        self.changed(query.bind(claim.id.as_str()).bind(claim.attempt).bind(now)).await
    }

    /// The job is finalizing, when every item is known, or will never be, and has ended. `None`: that is not so, or the claim is fenced
    /// off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn finalize(&self, claim: &JobClaim, now: Millis) -> Result<Option<JobRecord>, LedgerError> {
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

    /// The job cannot be done: it is finalizing with its failure, and its open items have failed with it. `false`: fenced
    /// off. Saying it again is no harm.
    ///
    /// # Errors
    /// The ledger cannot be reached; all of it was entered or nothing.
    pub async fn doom(&self, claim: &JobClaim, why: &Failure, now: Millis) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let doomed = sqlx::query(
            "UPDATE jobs
             SET state = 'finalizing', finalizing_at = COALESCE(finalizing_at, $3), failure_code = $4,
                 failure_message = $5, total = (SELECT COUNT(*) FROM items WHERE items.job_id = jobs.id)
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL",
        )
        .bind(claim.id.as_str())
        .bind(claim.attempt)
        .bind(now)
        .bind(why.code.as_str())
        .bind(why.message.as_str())
        .execute(&mut *transaction)
        .await?;
        if doomed.rows_affected() == 0 {
            return Ok(false);
        }
        let open = sqlx::query(
            "UPDATE items
             SET state = 'failed', failure_code = $2, failure_message = $3, worker = NULL, lease_until = NULL, ended_at = $4
             WHERE job_id = $1 AND state IN ('queued', 'running')",
        );
        let open = open.bind(claim.id.as_str()).bind(why.code.as_str()).bind(why.message.as_str()).bind(now);
        open.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends a job from outside: it is finalizing with the reason, its open items will be cancelled
    /// ([`cancel_open`](Self::cancel_open)), and nobody begins another. Whoever holds the job is fenced off; whoever
    /// holds one of its items learns it by the next heartbeat and gives it back, or ends it if that is sooner. `false`: no
    /// such job, or it had ended or was about to.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn end_early(&self, id: &JobId, end: EarlyEnd, now: Millis) -> Result<bool, LedgerError> {
        let why = end.failure();
        // Due and not rung for: the next sweep rings.
        let query = sqlx::query(
            "UPDATE jobs
             SET state = 'finalizing', finalizing_at = $2, failure_code = $3, failure_message = $4,
                 attempt = attempt + 1, worker = NULL, lease_until = NULL, due_at = $2, rung_at = 0
             WHERE id = $1 AND state IN ('accepted', 'validating', 'queued', 'running')",
        );
        self.changed(query.bind(id.as_str()).bind(now).bind(why.code.as_str()).bind(why.message.as_str()))
            .await
    }

    /// Cancels some of the items of a job that was ended early which nobody holds; how many. `None`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn cancel_open(
        &self,
        claim: &JobClaim,
        now: Millis,
        limit: u32,
    ) -> Result<Option<u64>, LedgerError> {
        // Part by part: a million rows in one statement would keep everybody waiting.
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

    /// Ends a job that is finalizing, and the claim with it; and enters the news of it, in the same transaction. `false`:
    /// fenced off. Saying it again is no harm.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn finish(
        &self,
        claim: &JobClaim,
        end: &JobEnd,
        news: &Event,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let (code, message) = end.failure().map(|why| (why.code, why.message)).unzip();
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
            outbox::enter(&mut transaction, &claim.id, row.try_get("news")?, news, now).await?;
            transaction.commit().await?;
            return Ok(true);
        }
        transaction.rollback().await?;
        // Ours after all, when the answer to the first time was lost.
        let job = self.job(&claim.id).await?;
        Ok(job.is_some_and(|job| job.state == end.state() && job.attempt == claim.attempt))
    }

    /// Gives a job back. The sweep rings for it at `due`, and not before; `None`: as soon as there is something to do,
    /// which is when its last item has ended. The item may have ended while the job was held: who gives a job back
    /// with `None` asks [`any_open`](Self::any_open) afterwards, or leaves it to the sweep. `false`: fenced off.
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

fn insert_items(rows: usize) -> String {
    // $1: the job; $2: now; then three of each item's own.
    let row =
        |row: usize| format!("($1, 'queued', $2, $2, ${}, ${}, ${})", 3 * row + 3, 3 * row + 4, 3 * row + 5);
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO items (job_id, state, due_at, rung_at, id, position, message) VALUES {}
         ON CONFLICT (job_id, id) DO NOTHING",
        rows.join(", ")
    )
}
