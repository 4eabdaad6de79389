//! Errors of the ledger.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteError;

use crate::{Failure, Stopped};

/// Error of a call to the ledger. A failed write may have happened. Texts hold no URL and no password.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The URL does not name a ledger.
    #[error("ledger: bad URL: {0}")]
    Url(String),
    /// Its tables are not those of this build.
    #[error("ledger: {0}")]
    Schema(String),
    #[error("ledger: cannot migrate: {0}")]
    Migrate(String),
    /// A row has values that no build writes.
    #[error("ledger: {0}")]
    BadRow(String),
    #[error("ledger: no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("ledger: {}", describe(.0))]
    Sql(#[source] sqlx::Error),
}

impl LedgerError {
    pub(super) fn schema(what: &str) -> Self {
        Self::Schema(format!("{what}: run `flamingo migrate`"))
    }

    /// Returns whether the same call may succeed later. A write that failed so may have happened.
    pub fn is_transient(&self) -> bool {
        match self {
            LedgerError::Sql(error) => is_transient(error),
            LedgerError::Timeout(_) => true,
            LedgerError::Url(_)
            | LedgerError::Schema(_)
            | LedgerError::Migrate(_)
            | LedgerError::BadRow(_) => false,
        }
    }
}

/// Describes an SQL error. The pool does not say why it has no connection; [`Ledger::check`](super::Ledger::check) asks the
/// server.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection to the database was free in time: this process uses all of its connections, or the server \
             accepts no more"
                .into()
        }
        other => other.to_string(),
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // The error's text may quote the URL.
            sqlx::Error::Configuration(_) => Self::Url("the driver does not understand it".to_owned()),
            other => Self::Sql(other),
        }
    }
}

impl From<MigrateError> for LedgerError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Self::Migrate(other.to_string()),
        }
    }
}

impl From<LedgerError> for Stopped {
    fn from(error: LedgerError) -> Self {
        Self::retry_free(Failure::new("ledger_unavailable", error.to_string()))
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        Error::Io(_) | Error::PoolTimedOut | Error::WorkerCrashed | Error::BeginFailed => true,
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<SqliteError>() {
                Some(_) => sqlite_is_transient(&code),
                None => postgres_is_transient(&code),
            }
        }
        _ => false,
    }
}

/// Classifies codes of <https://sqlite.org/rescode.html>. The low byte is the primary code.
fn sqlite_is_transient(code: &str) -> bool {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const IO: u32 = 10;
    const FULL: u32 = 13;
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, BUSY | LOCKED | IO | FULL))
}

/// Classifies codes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>. Transient are: connection lost,
/// transaction rollback (serialization failure, deadlock), insufficient resources, lock not available, operator
/// intervention (shutdown, statement timeout), I/O error.
fn postgres_is_transient(code: &str) -> bool {
    ["08", "40", "53", "55P03", "57", "58"].iter().any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_transient_and_permanent_errors() {
        for (code, transient) in [
            ("40001", true),
            ("57P03", true),
            ("53300", true),
            ("23505", false),
            ("42P01", false),
            ("", false),
        ] {
            assert_eq!(postgres_is_transient(code), transient, "{code}");
        }
        // Busy, busy (snapshot), I/O error while reading, constraint (unique), generic.
        for (code, transient) in [("5", true), ("517", true), ("266", true), ("2067", false), ("1", false)] {
            assert_eq!(sqlite_is_transient(code), transient, "{code}");
        }
        assert!(is_transient(&sqlx::Error::PoolTimedOut));
        assert!(!is_transient(&sqlx::Error::RowNotFound));
    }
}
