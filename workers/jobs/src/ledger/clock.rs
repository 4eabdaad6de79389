//! Clock of the ledger. Workers and clients on many machines compare each other's times, so all of them take the time of
//! the database. A machine's own clock decides nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::Row;

use super::{Ledger, LedgerError};
use crate::time::{Millis, later};

/// Interval of questions to the database. In between the monotonic clock, which cannot be set, continues the last answer.
const INTERVAL: Duration = Duration::from_secs(5);

/// Difference between the clocks of machine and database that is tolerated without a warning.
const MAX_SKEW: Millis = 5_000;

/// Time in milliseconds since 1970. `now()` of Postgres would be the time at which the transaction began.
pub(super) const POSTGRES: &str =
    "SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT) AS millis";
/// As [`POSTGRES`]. SQLite has the clock of its machine, on which all of its users are.
pub(super) const SQLITE: &str = "SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) AS millis";

/// Clock of a database.
pub(super) struct Clock {
    /// Statement that returns the time.
    sql: &'static str,
    state: Mutex<State>,
    /// Locked by the caller that asks the database, for all callers.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    reading: Option<Reading>,
    /// Time of the last question, answered or not.
    asked: Option<Instant>,
    /// Last skew that was logged.
    logged_skew: Millis,
}

/// Time of the database at an instant of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    time: Millis,
    at: Instant,
    /// Time of this machine's clock minus the time of the database.
    skew: Millis,
}

impl Clock {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql, state: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Locks the state. Each change is complete before anything can panic, so a poisoned lock holds a valid state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Returns the time of the database. Asks the database every few seconds, and counts on in between and during an outage.
    ///
    /// # Errors
    /// The ledger could not be reached since it was opened.
    pub async fn now(&self) -> Result<Millis, LedgerError> {
        Ok(self.clock_reading().await?.time_at(Instant::now()))
    }

    /// Returns by how much the clock of this machine is ahead of that of the database, in milliseconds; negative if it is
    /// behind.
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub async fn clock_skew(&self) -> Result<Millis, LedgerError> {
        Ok(self.clock_reading().await?.skew)
    }

    async fn clock_reading(&self) -> Result<Reading, LedgerError> {
        let Some(known) = self.clock.state().reading else {
            let _asking = self.clock.asking.lock().await;
            let answered = self.clock.state().reading;
            return match answered {
                Some(reading) => Ok(reading),
                None => self.ask_for_time().await,
            };
        };
        if !self.clock.state().is_due(Instant::now()) {
            return Ok(known);
        }
        // One caller asks. The others do not wait, and an error is found by the statement that needs the time.
        let Ok(_asking) = self.clock.asking.try_lock() else { return Ok(known) };
        Ok(self.ask_for_time().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the database does not tell its time");
            known
        }))
    }

    /// Asks the database for its time, and keeps the answer.
    async fn ask_for_time(&self) -> Result<Reading, LedgerError> {
        self.clock.state().asked = Some(Instant::now());
        // The wait for a connection must not count as the time of the answer.
        let mut connection = self.pool.acquire().await?;
        let (asked, machine) = (Instant::now(), Timestamp::now().as_millisecond());
        let row = sqlx::query(self.clock.sql).fetch_one(&mut *connection).await?;
        let reading = Reading::new(row.try_get("millis")?, asked, asked.elapsed(), machine);
        let mut state = self.clock.state();
        state.reading = Some(reading);
        state.log_change(reading.skew);
        Ok(reading)
    }
}

impl Reading {
    /// Creates the reading of a question that was sent at `asked`, when the machine's clock showed `machine`, and answered
    /// after `took`: the database has read its clock in the middle.
    fn new(time: Millis, asked: Instant, took: Duration, machine: Millis) -> Self {
        Self { time, at: asked + took / 2, skew: later(machine, took / 2) - time }
    }

    fn time_at(&self, instant: Instant) -> Millis {
        later(self.time, instant.saturating_duration_since(self.at))
    }
}

impl State {
    /// Returns whether the database is to be asked again.
    fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= INTERVAL)
    }

    /// Logs the skew if it has changed much since it was logged last; returns whether it has.
    fn log_change(&mut self, skew: Millis) -> bool {
        if (skew - self.logged_skew).abs() <= MAX_SKEW {
            return false;
        }
        let skew_s = skew as f64 / 1000.0;
        if skew.abs() > MAX_SKEW {
            tracing::warn!(
                skew_s,
                "the clock of this machine differs from the database's; jobs follow the database's, logs do not"
            );
        } else {
            tracing::info!(skew_s, "the clock of this machine agrees with the database's again");
        }
        self.logged_skew = skew;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::LedgerSettings;
    use crate::secret_url::SecretUrl;

    #[tokio::test]
    async fn clock_continues_during_an_outage() {
        let url = SecretUrl::new("sqlite::memory:");
        let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        let first = ledger.now().await.unwrap();
        ledger.pool.close().await;
        ledger.clock.state().asked = None;
        assert!(ledger.now().await.unwrap() >= first);
        assert!(ledger.clock.state().asked.is_some(), "the database was asked");
        let unreachable = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        unreachable.pool.close().await;
        assert!(unreachable.now().await.is_err());
    }

    #[tokio::test]
    async fn time_is_that_of_the_database() {
        let url = SecretUrl::new("sqlite::memory:");
        let mut ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        ledger.clock = Arc::new(Clock::new("SELECT 1000000 AS millis"));
        let now = ledger.now().await.unwrap();
        assert!((1_000_000..1_300_000).contains(&now), "{now}");
        let skew = ledger.clock_skew().await.unwrap();
        assert!((skew + 1_000_000 - Timestamp::now().as_millisecond()).abs() < 300_000, "{skew}");
    }

    #[test]
    fn reading_continues_from_the_middle_of_the_call() {
        let asked = Instant::now();
        let reading = Reading::new(1_000_000, asked, Duration::from_secs(2), 1_600_000);
        assert_eq!(reading.skew, 601_000);
        for (after_ms, time) in [(1_000, 1_000_000), (2_000, 1_001_000), (4_500, 1_003_500)] {
            assert_eq!(reading.time_at(asked + Duration::from_millis(after_ms)), time);
        }
    }

    #[test]
    fn database_is_asked_once_per_interval() {
        let now = Instant::now();
        let state = State { asked: Some(now), ..State::default() };
        assert!(!state.is_due(now) && !state.is_due(now + Duration::from_millis(4_999)));
        assert!(state.is_due(now + Duration::from_secs(5)) && State::default().is_due(now));
    }

    #[test]
    fn skew_is_logged_once_per_change() {
        let mut state = State::default();
        for (skew, logged) in [
            (0, false),
            (5_000, false),
            (5_001, true),
            (4_900, false),
            (9_000, false),
            (600_000, true),
            (600_400, false),
            (-600_000, true),
            (20, true),
            (-30, false),
        ] {
            assert_eq!(state.log_change(skew), logged, "{skew} ms");
        }
    }
}
