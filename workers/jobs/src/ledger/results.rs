//! Items of a job whose results are gathered.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::items::RECORD;
use super::{ItemRecord, JobClaim, Ledger, LedgerError};
use crate::{Failure, ItemId, JobId};

impl Ledger {
    /// Returns a page of items as [`items`](Self::items), each with its content as it was inserted.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn items_with_content(
        &self,
        job: &JobId,
        after: Option<(i64, &ItemId)>,
        limit: u32,
    ) -> Result<Vec<(ItemRecord, String)>, LedgerError> {
        let rows = self.item_rows(&format!("{RECORD}, message"), job, after, limit).await?;
        let read = |row: &AnyRow| Ok((ItemRecord::read(row)?, row.try_get("message")?));
        rows.iter().map(read).collect()
    }

    /// Fails succeeded items of a finalizing job. It is the only change of an item after its end. Returns `false` if the claim
    /// is stale. May be repeated.
    ///
    /// # Errors
    /// The ledger cannot be reached. The change was made whole or not at all.
    pub async fn fail_succeeded_items(
        &self,
        claim: &JobClaim,
        items: &[(ItemId, Failure)],
    ) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        // Locks the job's row until the commit, so that no other worker claims it in between.
        let held = sqlx::query(
            "UPDATE jobs SET attempt = attempt
             WHERE id = $1 AND attempt = $2 AND lease_until IS NOT NULL AND state = 'finalizing'",
        );
        let held = held.bind(claim.id.as_str()).bind(claim.attempt).execute(&mut *transaction).await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
        for (item, Failure { code, message }) in items {
            let failed = sqlx::query(
                "UPDATE items SET state = 'failed', failure_code = $3, failure_message = $4
                 WHERE job_id = $1 AND id = $2 AND state = 'succeeded'",
            );
            let failed = failed.bind(claim.id.as_str()).bind(item.as_str());
            failed.bind(code.as_str()).bind(message.as_str()).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}
