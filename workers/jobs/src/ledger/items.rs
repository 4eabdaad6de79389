//! Items: claimed, kept by heartbeats, ended or given back.

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::record::{failure, item_id, item_state, job_state};
use super::{ItemRecord, Ledger, LedgerError};
use crate::job::{Failure, ItemEnd, ItemId, ItemState, JobId, JobState, Millis, NewItem, later};

/// The right to do an item. Ends with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemClaim {
    pub job: JobId,
    pub item: ItemId,
    /// The fence: how often it has been claimed, this time included.
    pub attempt: i64,
    /// How many claims were given back.
    pub given_back: i64,
    /// How many ended with their worker: without a word from it, or because it was broken.
    pub lost: i64,
    pub position: i64,
    /// The message's body as it was sent.
    pub message: String,
    /// Where the job stood before.
    pub job_state: JobState,
}

impl ItemClaim {
    /// Attempts that count, this one included: neither a worker that was told to stop nor one that was lost is the item's
    /// fault.
    pub fn attempts(&self) -> u64 {
        u64::try_from(self.attempt - self.given_back - self.lost).unwrap_or(0)
    }
}

/// What it has cost an item that it could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toll {
    /// One of its attempts: it has failed.
    Attempt,
    /// A worker, which is broken now: as one that was lost.
    Worker,
    Nothing,
}

/// What has become of the wish to do an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimedItem {
    Yes(ItemClaim),
    /// Somebody does it, and has until then.
    Held {
        until: Millis,
    },
    /// It is not its time yet.
    Early {
        due: Millis,
    },
    Ended {
        state: ItemState,
        why: Option<Failure>,
    },
    /// No such item.
    Unknown,
}

/// An item goes back to the queue, unless its job was ended early: then it has ended with it. `$4` is a moment.
pub(super) const BACK: &str =
    "state = CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE jobs.id = items.job_id AND jobs.state = 'finalizing')
         THEN 'cancelled' ELSE 'queued' END,
     ended_at = CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE jobs.id = items.job_id AND jobs.state = 'finalizing')
         THEN $4 END";

/// The columns of an [`ItemRecord`].
const RECORD: &str = "id, position, state, attempt, given_back, lost, due_at, worker, lease_until, progress,
     failure_code, failure_message, claimed_at, ended_at";

impl Ledger {
    /// Items of a job in order: the first `limit`, or those after the last one of the page before (its position, its
    /// id).
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn items(
        &self,
        job: &JobId,
        after: Option<(i64, &ItemId)>,
        limit: u32,
    ) -> Result<Vec<ItemRecord>, LedgerError> {
        let (position, id) = after.map_or((i64::MIN, ""), |(position, id)| (position, id.as_str()));
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {RECORD} FROM items
             WHERE job_id = $1 AND (position, id) > ($2, $3) ORDER BY position, id LIMIT $4"
        )))
        .bind(job.as_str())
        .bind(position)
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(ItemRecord::read).collect()
    }

    /// # Errors
    /// The ledger cannot be reached.
    pub async fn item(&self, job: &JobId, item: &ItemId) -> Result<Option<ItemRecord>, LedgerError> {
        let query =
            sqlx::query(AssertSqlSafe(format!("SELECT {RECORD} FROM items WHERE job_id = $1 AND id = $2")));
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(ItemRecord::read).transpose()
    }

    /// The message about an item, as it was entered.
    ///
    /// # Errors
    /// The ledger cannot be reached, or has no such item.
    pub async fn item_message(&self, job: &JobId, item: &ItemId) -> Result<String, LedgerError> {
        let query = sqlx::query("SELECT message FROM items WHERE job_id = $1 AND id = $2");
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_one(&self.pool).await?;
        Ok(row.try_get("message")?)
    }

    /// Where an item stands; `None`: there is none.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn item_state(&self, job: &JobId, item: &ItemId) -> Result<Option<ItemState>, LedgerError> {
        let query = sqlx::query("SELECT state FROM items WHERE job_id = $1 AND id = $2");
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(|row| item_state(row, "state")).transpose()
    }

    /// Items of a job that have failed or were cancelled, after the last one of the page before (its position, its id), as they
    /// were entered.
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
            "SELECT id, position, message FROM items
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
            let item = NewItem { id: item_id(row, "id")?, message: row.try_get("message")? };
            Ok((row.try_get("position")?, item))
        };
        rows.iter().map(read).collect()
    }

    /// What the workers on a job's items said last of their progress, of `limit` items at most.
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

    /// Is there an item that has not ended?
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn any_open(&self, job: &JobId) -> Result<bool, LedgerError> {
        let query =
            sqlx::query("SELECT 1 FROM items WHERE job_id = $1 AND state IN ('queued', 'running') LIMIT 1");
        Ok(query.bind(job.as_str()).fetch_optional(&self.pool).await?.is_some())
    }

    /// Claims an item, when it is due and nobody holds it. A queued job is running from now.
    ///
    /// # Errors
    /// The ledger cannot be reached; it may have been claimed, then the lease runs out.
    pub async fn claim_item(
        &self,
        job: &JobId,
        item: &ItemId,
        worker: &str,
        now: Millis,
        lease: Duration,
    ) -> Result<ClaimedItem, LedgerError> {
        let claim = sqlx::query(
            "UPDATE items
             SET state = 'running', attempt = attempt + 1, worker = $3, claimed_at = $4, lease_until = $5,
                 lost = lost + CASE state WHEN 'running' THEN 1 ELSE 0 END, progress = NULL
             WHERE job_id = $1 AND id = $2
                 AND ((state = 'queued' AND due_at <= $4) OR (state = 'running' AND lease_until < $4))
                 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = $1 AND jobs.state = 'finalizing')
             RETURNING attempt, given_back, lost, position, message,
                 (SELECT jobs.state FROM jobs WHERE jobs.id = $1) AS job_state",
        )
        .bind(job.as_str())
        .bind(item.as_str())
        .bind(worker)
        .bind(now)
        .bind(later(now, lease));
        let Some(row) = self.written(claim).await? else { return self.why_not(job, item).await };
        let claim = ItemClaim {
            job: job.clone(),
            item: item.clone(),
            attempt: row.try_get("attempt")?,
            given_back: row.try_get("given_back")?,
            lost: row.try_get("lost")?,
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
        Ok(ClaimedItem::Yes(claim))
    }

    async fn why_not(&self, job: &JobId, item: &ItemId) -> Result<ClaimedItem, LedgerError> {
        let query = sqlx::query(
            "SELECT state, due_at, lease_until, failure_code, failure_message,
                 (SELECT jobs.state FROM jobs WHERE jobs.id = $1) AS job_state
             FROM items WHERE job_id = $1 AND id = $2",
        );
        let row = query.bind(job.as_str()).bind(item.as_str()).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(ClaimedItem::Unknown) };
        let ending = job_state(&row, "job_state")? == JobState::Finalizing;
        Ok(match item_state(&row, "state")? {
            ItemState::Queued if ending => ClaimedItem::Ended { state: ItemState::Cancelled, why: None },
            ItemState::Queued => ClaimedItem::Early { due: row.try_get("due_at")? },
            ItemState::Running => ClaimedItem::Held { until: row.try_get("lease_until")? },
            end @ (ItemState::Succeeded | ItemState::Failed | ItemState::Cancelled) => {
                ClaimedItem::Ended { state: end, why: failure(&row)? }
            }
        })
    }

    /// Heartbeat, with how far the work has come (JSON). `false`: fenced off, or the job was ended early.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn extend_item(
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

    /// Ends an item, and the claim with it. `false`: fenced off. Saying it again is no harm.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn end_item(&self, claim: &ItemClaim, end: &ItemEnd, now: Millis) -> Result<bool, LedgerError> {
        let (code, message) = end.failure().map(|why| (why.code.as_str(), why.message.as_str())).unzip();
        let query = sqlx::query(
            "UPDATE items
             SET state = $4, failure_code = $5, failure_message = $6, ended_at = $7, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'",
        );
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        if self.changed(query.bind(end.state().as_str()).bind(code).bind(message).bind(now)).await? {
            return Ok(true);
        }
        // Ours after all, when the answer to the first time was lost.
        let query =
            sqlx::query("SELECT 1 FROM items WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = $4");
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        Ok(query.bind(end.state().as_str()).fetch_optional(&self.pool).await?.is_some())
    }

    /// Gives an item back that could not be done: due later, with the reason. Whoever calls this has set its bell to ring
    /// then. `false`: fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn retry_item(
        &self,
        claim: &ItemClaim,
        due: Millis,
        why: &Failure,
        toll: Toll,
    ) -> Result<bool, LedgerError> {
        let query = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items
             SET {BACK}, due_at = $4, rung_at = $4, failure_code = $5, failure_message = $6,
                 given_back = given_back + $7, lost = lost + $8, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'"
        )));
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        let query = query.bind(due).bind(why.code.as_str()).bind(why.message.as_str());
        let query = query.bind(i64::from(toll == Toll::Nothing)).bind(i64::from(toll == Toll::Worker));
        self.changed(query).await
    }

    /// Gives an item back because the worker was told to stop: due now, and the attempt does not count. `false`:
    /// fenced off.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn give_back_item(&self, claim: &ItemClaim, now: Millis) -> Result<bool, LedgerError> {
        let query = sqlx::query(AssertSqlSafe(format!(
            "UPDATE items
             SET {BACK}, due_at = $4, rung_at = $4, given_back = given_back + 1, worker = NULL, lease_until = NULL
             WHERE job_id = $1 AND id = $2 AND attempt = $3 AND state = 'running'"
        )));
        let query = query.bind(claim.job.as_str()).bind(claim.item.as_str()).bind(claim.attempt);
        self.changed(query.bind(now)).await
    }
}
