//! Workers: their routes and heartbeats.

use std::time::Duration;

use sqlx::Row;

use super::record::{count, route};
use super::{Ledger, LedgerError};
use crate::JobId;
use crate::queue::Route;
use crate::time::{Millis, earlier, later};

/// Age of the last heartbeat at which a worker is forgotten.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Queued items of a job that no worker can run at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedRoute {
    /// Route that no worker has.
    pub route: Route,
    pub items: u64,
}

impl Ledger {
    /// Records a heartbeat of a worker, and forgets workers that had their last one long ago.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn record_worker(
        &self,
        name: &str,
        route: Option<&Route>,
        now: Millis,
        lease: Duration,
    ) -> Result<(), LedgerError> {
        let heartbeat = sqlx::query(
            "INSERT INTO workers (name, route, heartbeat_at, lease_until) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET route = $2, heartbeat_at = $3, lease_until = $4",
        );
        let heartbeat = heartbeat.bind(name).bind(route.map(Route::as_str)).bind(now);
        heartbeat.bind(later(now, lease)).execute(&self.pool).await?;
        let old = sqlx::query("DELETE FROM workers WHERE heartbeat_at < $1").bind(earlier(now, MAX_AGE));
        old.execute(&self.pool).await?;
        Ok(())
    }

    /// Removes a worker that takes no more items.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn remove_worker(&self, name: &str) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM workers WHERE name = $1").bind(name).execute(&self.pool).await?;
        Ok(())
    }

    /// Counts the routes that queued items need and that no worker has.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn missing_routes(&self, now: Millis) -> Result<u64, LedgerError> {
        // One lookup in the index per route, however many items are queued.
        let query = sqlx::query(
            "WITH RECURSIVE needed (route) AS (
                 SELECT MIN(route) FROM items WHERE state = 'queued'
                 UNION ALL
                 SELECT (SELECT MIN(items.route) FROM items WHERE items.state = 'queued' AND items.route > needed.route)
                 FROM needed WHERE needed.route IS NOT NULL
             )
             SELECT COUNT(*) AS routes FROM needed
             WHERE route IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM workers WHERE workers.route = needed.route AND workers.lease_until >= $1
             )",
        );
        let row = query.bind(now).fetch_one(&self.pool).await?;
        count(row.try_get("routes")?, "routes")
    }

    /// Returns the routes that queued items of a job need and that no worker has.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn unserved_routes(&self, job: &JobId, now: Millis) -> Result<Vec<UnservedRoute>, LedgerError> {
        let query = sqlx::query(
            "SELECT route, COUNT(*) AS items FROM items
             WHERE job_id = $1 AND state = 'queued' AND route IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM workers WHERE workers.route = items.route AND workers.lease_until >= $2
             )
             GROUP BY route ORDER BY route",
        );
        let rows = query.bind(job.as_str()).bind(now).fetch_all(&self.pool).await?;
        let mut unserved = Vec::new();
        for row in rows {
            if let Some(route) = route(&row)? {
                unserved.push(UnservedRoute { route, items: count(row.try_get("items")?, "items")? });
            }
        }
        Ok(unserved)
    }
}
