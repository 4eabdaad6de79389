//! Connections that are kept between the short statements of a busy worker.
//!
//! The pool tests a connection before and after each use, with a round trip each: two thirds of the round trips of an item.
//! A connection that has just answered needs no test.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Any;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;

use super::{Ledger, LedgerError};

/// Time without use after which a connection may have broken unnoticed.
const MAX_IDLE: Duration = Duration::from_secs(1);

/// Maximum time that a connection stays out of the pool, which closes old connections.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Connections outside the pool. It counts them as used, so there are few.
pub(super) struct KeptConnections {
    max: usize,
    kept: Mutex<Vec<Kept>>,
}

pub(super) struct Kept {
    connection: PoolConnection<Any>,
    acquired: Instant,
    used: Instant,
}

impl KeptConnections {
    /// Keeps at most half of the pool's connections: other statements take theirs from the pool.
    pub(super) fn new(pool_size: u32) -> Self {
        Self { max: pool_size as usize / 2, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection that was used last. Connections that need a test go to the pool.
    fn take(&self, now: Instant) -> Option<Kept> {
        let mut kept = self.kept();
        kept.retain(|one| now - one.used < MAX_IDLE && now - one.acquired < MAX_AGE);
        kept.pop()
    }

    fn keep(&self, connection: Kept) {
        let mut kept = self.kept();
        if kept.len() < self.max {
            kept.push(Kept { used: Instant::now(), ..connection });
        }
    }
}

impl Drop for KeptConnections {
    fn drop(&mut self) {
        // Closes them: the pool takes connections back in a task, and the last user may drop the ledger outside the runtime.
        self.kept().drain(..).for_each(|kept| drop(kept.connection.detach()));
    }
}

impl Ledger {
    /// Runs a statement, and returns its rows.
    pub(super) async fn rows(&self, query: Query<'_, Any, AnyArguments>) -> Result<Vec<AnyRow>, LedgerError> {
        let mut kept = self.connection().await?;
        // Not `fetch_optional`: on SQLite it returns the first row of a write before the statement has committed.
        let rows = query.fetch_all(&mut *kept.connection).await?;
        self.kept.keep(kept);
        Ok(rows)
    }

    /// Runs a write statement that returns at most one row.
    pub(super) async fn written(
        &self,
        query: Query<'_, Any, AnyArguments>,
    ) -> Result<Option<AnyRow>, LedgerError> {
        Ok(self.rows(query).await?.pop())
    }

    /// Runs a write statement; returns whether it changed a row.
    pub(super) async fn changed(&self, query: Query<'_, Any, AnyArguments>) -> Result<bool, LedgerError> {
        let mut kept = self.connection().await?;
        let done = query.execute(&mut *kept.connection).await?;
        self.kept.keep(kept);
        Ok(done.rows_affected() > 0)
    }

    /// Returns a connection. Dropped after an error or by a cancelled caller, it goes to the pool, which tests it.
    async fn connection(&self) -> Result<Kept, LedgerError> {
        if let Some(kept) = self.kept.take(Instant::now()) {
            return Ok(kept);
        }
        let connection = self.pool.acquire().await?;
        let now = Instant::now();
        Ok(Kept { connection, acquired: now, used: now })
    }
}
