//! Items: claim, renew the lease, end, retry, release.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::record::{address, attempts, failure, item_id, item_state, job_state};
use super::{ItemRecord, Ledger, LedgerError};
use crate::job::NewItem;
use crate::queue::{Address, Route};
use crate::state::{ItemEnd, ItemState, JobState};
use crate::time::{Millis, later};
use crate::{Disposition, Failure, ItemId, JobId, RetryCost, Stopped};

/// Claim of an item. It ends with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemClaim {
    pub job: JobId,
    pub item: ItemId,
    /// Fencing token: the number of claims, including this one.
    pub attempt: i64,
    /// Number of claims that were released.
    pub released: i64,
    /// Number of claims whose worker was lost: it crashed or was broken.
    pub worker_losses: i64,
    pub position: i64,
    /// Content of the item, as it was inserted.
    pub message: String,
    /// State of the job before the claim.
    pub job_state: JobState,
}

impl ItemClaim {
    /// Returns the number of attempts, including this one. Released claims and lost workers are no attempts.
    pub fn attempts(&self) -> u64 {
        attempts(self.attempt, self.released, self.worker_losses)
    }
}

/// Result of [`Ledger::claim_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    Claimed(ItemClaim),
    /// Another worker holds it.
    Leased,
    /// It will be due after this time.
    NotDue {
        wait: Duration,
    },
    /// Only workers with another route run it; its messages belong into this queue.
    OtherRoute(Address),
    /// It has ended, with this failure if it failed.
    Finished {
        reason: Option<Failure>,
    },
    /// No such item.
    NotFound,
}

/// Assignments that requeue an item, or cancel it if its job was ended early. `$4` is the time.
pub(super) const REQUEUE: &str =
    "state = CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE jobs.id = items.job_id AND jobs.state = 'finalizing')
         THEN 'cancelled' ELSE 'queued' END,
     ended_at = CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE jobs.id = items.job_id AND jobs.state = 'finalizing')
         THEN $4 END";

/// Columns of an [`ItemRecord`]: `given_back` is `released`, `lost` is `worker_losses`.
pub(super) const RECORD: &str =
    "id, position, state, attempt, given_back, lost, due_at, worker, lease_until, progress,
     failure_code, failure_message, claimed_at, ended_at";

impl Ledger {
    /// Returns `limit` items of a job in order, from the start or after the last item of the previous page (position, id).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn items(
        &self,
        job: &JobId,
        after: Option<(i64, &ItemId)>,
        limit: u32,
    ) -> Result<Vec<ItemRecord>, LedgerError> {
        self.item_rows(RECORD, job, after, limit).await?.iter().map(ItemRecord::read).collect()
    }

    /// Returns `columns` of a page of items.
    pub(super) async fn item_rows(
        &self,
        columns: &str,
        job: &JobId,
        after: Option<(i64, &ItemId)>,
        limit: u32,
    ) -> Result<Vec<AnyRow>, LedgerError> {
        let (position, id) = after.map_or((i64::MIN, ""), |(position, id)| (position, id.as_str()));
        let query = sqlx::query(AssertSqlSafe(format!(
            "SELECT {columns} FROM items
             WHERE job_id = $1 AND (position, id) > ($2, $3) ORDER BY position, id LIMIT $4"
        )));
        let query = query.bind(job.as_str()).bind(position).bind(id).bind(i64::from(limit));
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Returns an item; `None` if there is none.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn item(&self, job: &JobId, item: &ItemId) -> Result<Option<ItemRecord>, LedgerError> {
        let query =
            sqlx::query(AssertSqlSafe(format!("SELECT {RECORD} FROM items WHERE job_id = $1 AND id = $2")));
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(ItemRecord::read).transpose()
    }

    /// Returns the content of an item as it was inserted.
    ///
    /// # Errors
    /// The ledger cannot be reached, or has no such item.
    pub async fn item_content(&self, job: &JobId, item: &ItemId) -> Result<String, LedgerError> {
        let query = sqlx::query("SELECT message FROM items WHERE job_id = $1 AND id = $2");
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_one(&self.pool).await?;
        Ok(row.try_get("message")?)
    }

    /// Returns state and queue of an item; `None` if there is none.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn item_queue(
        &self,
        job: &JobId,
        item: &ItemId,
    ) -> Result<Option<(ItemState, Address)>, LedgerError> {
        let query = sqlx::query("SELECT state, lane, route FROM items WHERE job_id = $1 AND id = $2");
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        row.map(|row| Ok((item_state(&row, "state")?, address(&row)?))).transpose()
    }

    /// Returns failed and cancelled items of a job as they were inserted, after the last item of the previous page
    /// (position, id).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn unfinished_items(
        &self,
        job: &JobId,
        after: Option<(i64, &ItemId)>,
        limit: u32,
    ) -> Result<Vec<(i64, NewItem)>, LedgerError> {
        let (position, id) = after.map_or((i64::MIN, ""), |(position, id)| (position, id.as_str()));
        let rows = sqlx::query(
            "SELECT id, position, lane, route, message FROM items
             WHERE job_id = $1 AND (position, id) > ($2, $3) AND state IN ('failed', 'cancelled')
             ORDER BY position, id LIMIT $4",
        )
        .bind(job.as_str())
        .bind(position)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let read = |row: &AnyRow| {
            let item =
                NewItem { id: item_id(row, "id")?, queue: address(row)?, message: row.try_get("message")? };
            Ok((row.try_get("position")?, item))
        };
        rows.iter().map(read).collect()
    }

    /// Returns the last progress (JSON) of at most `limit` running items of a job.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn progress(&self, job: &JobId, limit: u32) -> Result<Vec<String>, LedgerError> {
        let query = sqlx::query(
            "SELECT progress FROM items
             WHERE job_id = $1 AND state = 'running' AND progress IS NOT NULL LIMIT $2",
        );
        let rows = query.bind(job.as_str()).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get("progress")?)).collect()
    }

    /// Returns whether any item of the job has not ended.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn has_open_items(&self, job: &JobId) -> Result<bool, LedgerError> {
        let query =
            sqlx::query("SELECT 1 FROM items WHERE job_id = $1 AND state IN ('queued', 'running') LIMIT 1");
        Ok(!self.rows(query.bind(job.as_str())).await?.is_empty())
    }

    /// Claims an item that is due, unclaimed and of any or this route. A queued job becomes running.
    ///
    /// # Errors
    /// The ledger cannot be reached. The item may have been claimed; then its lease expires.
    pub async fn claim_item(
        &self,
        job: &JobId,
        item: &ItemId,
        worker: &str,
        route: Option<&Route>,
        now: Millis,
        lease: Duration,
    ) -> Result<ClaimOutcome, LedgerError> {
        let claim = sqlx::query(
            "UPDATE items
             SET state = 'running', attempt = attempt + 1, worker = $3, claimed_at = $4, lease_until = $5,
                 lost = lost + CASE state WHEN 'running' THEN 1 ELSE 0 END, progress = NULL
             WHERE job_id = $1 AND id = $2
                 AND ((state = 'queued' AND due_at <= $4) OR (state = 'running' AND lease_until < $4))
                 AND (route IS NULL OR route = $6)
                 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = $1 AND jobs.state = 'finalizing')
             RETURNING attempt, given_back, lost, position, message,
                 (SELECT jobs.state FROM jobs WHERE jobs.id = $1) AS job_state",
        )
        .bind(job.as_str())
        .bind(item.as_str())
        .bind(worker)
        .bind(now)
        .bind(later(now, lease))
        .bind(route.map(Route::as_str));
        let Some(row) = self.written(claim).await? else {
            return self.claim_refusal(job, item, route, now).await;
        };
        let claim = ItemClaim {
            job: job.clone(),
            item: item.clone(),
            attempt: row.try_get("attempt")?,
            released: row.try_get("given_back")?,
            worker_losses: row.try_get("lost")?,
            position: row.try_get("position")?,
            message: row.try_get("message")?,
            job_state: job_state(&row, "job_state")?,
        };
        if claim.job_state == JobState::Queued {
            let begun = sqlx::query(
                "UPDATE jobs SET state = 'running', running_at = $2 WHERE id = $1 AND state = 'queued'",
            );
            self.changed(begun.bind(job.as_str()).bind(now)).await?;
        }
        Ok(ClaimOutcome::Claimed(claim))
    }

    async fn claim_refusal(
        &self,
        job: &JobId,
        item: &ItemId,
        route: Option<&Route>,
        now: Millis,
    ) -> Result<ClaimOutcome, LedgerError> {
        let query = sqlx::query(
            "SELECT state, due_at, lane, route, failure_code, failure_message,
                 (SELECT jobs.state FROM jobs WHERE jobs.id = $1) AS job_state
             FROM items WHERE job_id = $1 AND id = $2",
        );
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(ClaimOutcome::NotFound) };
        let ending = job_state(&row, "job_state")? == JobState::Finalizing;
        let queue = address(&row)?;
        let is_other = queue.route.is_some() && queue.route.as_ref() != route;
        Ok(match item_state(&row, "state")? {
            ItemState::Queued if ending => ClaimOutcome::Finished { reason: None },
            ItemState::Queued if is_other => ClaimOutcome::OtherRoute(queue),
            ItemState::Queued => {
                let wait = row.try_get::<Millis, _>("due_at")?.saturating_sub(now);
                ClaimOutcome::NotDue { wait: Duration::from_millis(u64::try_from(wait).unwrap_or(0)) }
            }
            ItemState::Running => ClaimOutcome::Leased,
            ItemState::Succeeded | ItemState::Failed | ItemState::Cancelled => {
                ClaimOutcome::Finished { reason: failure(&row)? }
            }
        })
    }

    /// Renews the lease of an item and stores its progress (JSON). Returns `false` if the claim is stale or the job was ended
    /// early.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn renew_item_lease(
        &self,
        claim: &ItemClaim,
        progress: Option<&str>,
        now: Millis,
        lease: Duration,
    ) -> Result<bool, LedgerError> {
        let query = sqlx::query(
            "UPDATE items SET lease_until = $4, progress = $5
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'
                 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = $1 AND jobs.state = 'finalizing')",
        );
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        self.changed(query.bind(later(now, lease)).bind(progress)).await
    }

    /// Ends an item and its claim. Returns `false` if the claim is stale. May be repeated.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn end_item(&self, claim: &ItemClaim, end: &ItemEnd, now: Millis) -> Result<bool, LedgerError> {
        let (code, message) =
            end.failure().map(|reason| (reason.code.as_str(), reason.message.as_str())).unzip();
        let query = sqlx::query(
            "UPDATE items
             SET state = $4, failure_code = $5, failure_message = $6, ended_at = $7, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'",
        );
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        if self.changed(query.bind(end.state().as_str()).bind(code).bind(message).bind(now)).await? {
            return Ok(true);
        }
        // An earlier call of ours may have succeeded although its answer was lost.
        let query =
            sqlx::query("SELECT 1 FROM items WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = $4");
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        Ok(query.bind(end.state().as_str()).fetch_optional(&self.pool).await?.is_some())
    }

    /// Records that a run stopped without a report: fails the item, or requeues it, due at `due`, with the reason and the cost.
    /// A cancelled item keeps the reason of its last attempt. The caller has scheduled the item's message for `due`. Returns
    /// `false` if the claim is stale.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn stop_item(
        &self,
        claim: &ItemClaim,
        stopped: &Stopped,
        due: Millis,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let cost = match stopped.disposition {
            Disposition::Fail => {
                return self.end_item(claim, &ItemEnd::Failed(stopped.failure.clone()), now).await;
            }
            Disposition::Cancelled => return self.release_item(claim, now).await,
            Disposition::WorkerFault => RetryCost::WorkerLoss,
            Disposition::Retry(cost) => cost,
        };
        let query = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items
             SET {REQUEUE}, due_at = $4, rung_at = $4, failure_code = $5, failure_message = $6,
                 given_back = given_back + $7, lost = lost + $8, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'"
        )));
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        let Failure { code, message } = &stopped.failure;
        let query = query.bind(due).bind(code.as_str()).bind(message.as_str());
        let query =
            query.bind(i64::from(cost == RetryCost::Free)).bind(i64::from(cost == RetryCost::WorkerLoss));
        self.changed(query).await
    }

    /// Requeues an item, due now, at no cost.
    async fn release_item(&self, claim: &ItemClaim, now: Millis) -> Result<bool, LedgerError> {
        let query = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items
             SET {REQUEUE}, due_at = $4, rung_at = $4, given_back = given_back + 1, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'"
        )));
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        self.changed(query.bind(now)).await
    }
}
