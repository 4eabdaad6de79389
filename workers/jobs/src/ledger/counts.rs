//! Number of a job's items in each state.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Row};

use super::record::{count, item_state, job_id};
use super::{Ledger, LedgerError};
use crate::JobId;
use crate::state::{Counts, ItemState};

impl Ledger {
    /// Counts the known items of a job by state.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn counts(&self, id: &JobId) -> Result<Counts, LedgerError> {
        Ok(self.counts_of(std::slice::from_ref(id)).await?.remove(id).unwrap_or_default())
    }

    /// Counts the items of several jobs in one query. Jobs without items are missing in the result.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn counts_of(&self, ids: &[JobId]) -> Result<HashMap<JobId, Counts>, LedgerError> {
        let mut found: HashMap<JobId, Counts> = HashMap::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let places: Vec<_> = (1..=ids.len()).map(|n| format!("${n}")).collect();
        let sql = format!(
            "SELECT job_id, state, COUNT(*) AS items FROM items WHERE job_id IN ({}) GROUP BY job_id, state",
            places.join(", ")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for id in ids {
            query = query.bind(id.as_str());
        }
        for row in query.fetch_all(&self.pool).await? {
            let counts = found.entry(job_id(&row, "job_id")?).or_default();
            let items = count(row.try_get("items")?, "items")?;
            counts.total += items;
            match item_state(&row, "state")? {
                ItemState::Queued => counts.queued = items,
                ItemState::Running => counts.running = items,
                ItemState::Succeeded => counts.succeeded = items,
                ItemState::Failed => counts.failed = items,
                ItemState::Cancelled => counts.cancelled = items,
            }
        }
        Ok(found)
    }
}
