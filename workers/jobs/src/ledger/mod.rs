//! State of jobs and items, in SQL: one set of statements for SQLite and Postgres.
//!
//! A worker **claims** a job or an item under a **lease** and gets an attempt number. Every later statement of that worker
//! carries the number: once another worker has claimed the row, the statement changes nothing and returns `false`. The
//! number is a **fencing token**. The caller passes the time as `now`, so tests need no sleeping; workers and clients take it
//! from [`Ledger::now`], the clock of the database.
//!
//! Statements that claim or announce rows have their condition twice, in the subselect that finds the rows and in the
//! update itself: after Postgres has waited for another change of the same row, it checks only the latter again.
//!
//! `migrations/README.md` maps tables, columns and indices to the names in this code.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, Row, SqlSafeStr};
use url::Url;

mod error;
mod connections;
mod clock;
mod record;
mod counts;
mod outbox;
mod jobs;
mod job_end;
mod items;
mod results;
mod sweep;
mod workers;

#[cfg(test)]
mod contract;

pub use error::LedgerError;
pub use items::{ClaimOutcome, ItemClaim};
pub use jobs::{Accepted, JobClaim};
pub use outbox::OutboxEvent;
pub use record::{ItemRecord, JobRecord};
pub use sweep::{PendingJobMessage, PendingMessage};
pub use workers::UnservedRoute;

use self::clock::Clock;
use self::connections::KeptConnections;
use crate::secret_url::SecretUrl;

/// Files of `migrations/`. Listed by hand, because `sqlx::migrate!` would compile both databases' drivers twice.
const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "jobs", include_str!("../../../../migrations/0001_jobs.sql")),
    (2, "early ends", include_str!("../../../../migrations/0002_early_ends.sql")),
    (3, "lost workers", include_str!("../../../../migrations/0003_lost_workers.sql")),
    (4, "outbox", include_str!("../../../../migrations/0004_outbox.sql")),
    (5, "traces", include_str!("../../../../migrations/0005_traces.sql")),
    (6, "lanes", include_str!("../../../../migrations/0006_lanes.sql")),
    (7, "routes", include_str!("../../../../migrations/0007_routes.sql")),
];

/// Time for the server to tell why it accepts no connection.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// Connection settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSettings {
    /// Maximum connections to Postgres. SQLite has one: it allows one writer at a time anyway, and the pool serves callers
    /// in order, which the lock on the file does not.
    pub connections: u32,
    /// Maximum time to wait for a connection.
    pub acquire_timeout: Duration,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self { connections: 8, acquire_timeout: Duration::from_secs(5) }
    }
}

/// Ledger of jobs and items. Clones share its connections.
#[derive(Clone)]
pub struct Ledger {
    pool: AnyPool,
    kept: Arc<KeptConnections>,
    clock: Arc<Clock>,
}

impl Ledger {
    /// Opens `sqlite://PATH` (relative or absolute; created when it is missing), `sqlite::memory:` or `postgres://...`.
    /// Connects on first use: the server need not be up yet.
    ///
    /// # Errors
    /// The URL names no ledger, or the folder of the SQLite file cannot be created.
    pub async fn open(url: &SecretUrl, settings: &LedgerSettings) -> Result<Self, LedgerError> {
        sqlx::any::install_default_drivers();
        let pool = AnyPoolOptions::new().acquire_timeout(settings.acquire_timeout);
        let text = url.reveal();
        let (pool, url, clock) = match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                let url = Url::parse(text).map_err(|reason| LedgerError::Url(reason.to_string()))?;
                (pool.max_connections(settings.connections), url, clock::POSTGRES)
            }
            Some(("sqlite", file)) => (sqlite_pool(pool), sqlite_url(file)?, clock::SQLITE),
            _ => return Err(LedgerError::Url("expected sqlite://PATH or postgres://...".to_owned())),
        };
        let options: AnyConnectOptions = url.as_str().parse().map_err(LedgerError::Sql)?;
        let kept = Arc::new(KeptConnections::new(pool.get_max_connections()));
        Ok(Self { pool: pool.connect_lazy_with(options), kept, clock: Arc::new(Clock::new(clock)) })
    }

    /// Creates the tables, or migrates them to the version of this build. May be repeated, and may run concurrently.
    ///
    /// # Errors
    /// The ledger cannot be reached, or a table of this build was changed by hand.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        // SQLite has no lock for migrations: when two processes migrate concurrently, the slower one fails on tables that
        // exist by then, possibly once per migration. An error after as many retries is real.
        let mut behind = migrations().iter().count();
        loop {
            match self.migrate_once().await {
                Err(error) if !error.is_transient() && behind > 0 => behind -= 1,
                outcome => return outcome,
            }
        }
    }

    async fn migrate_once(&self) -> Result<(), LedgerError> {
        let mut connection = self.pool.acquire().await?;
        // Not `run`: its future is not `Send` with a borrowed connection (rust-lang/rust#100013).
        let outcome = migrations().run_direct(None, &mut *connection, false).await;
        if outcome.is_err() {
            // Postgres ties its migration lock to the connection, which would keep it after an error.
            connection.close().await?;
        }
        Ok(outcome?)
    }

    /// Checks that the ledger is reachable and has the tables of this build.
    ///
    /// # Errors
    /// It is not reachable, or its tables are older or differ; the text says what to do.
    pub async fn check(&self) -> Result<(), LedgerError> {
        if let Err(error) = sqlx::query("SELECT 1").execute(&self.pool).await {
            return Err(self.explain(error).await);
        }
        let applied =
            sqlx::query("SELECT version, checksum FROM _sqlx_migrations").fetch_all(&self.pool).await;
        let applied = applied.map_err(|error| match LedgerError::from(error) {
            error if error.is_transient() => error,
            // The database answers, but has no such table.
            LedgerError::Sql(sqlx::Error::Database(_)) => LedgerError::schema("the ledger has no tables yet"),
            other => other,
        })?;
        for migration in migrations().iter() {
            let version: i64 = migration.version;
            let Some(row) =
                applied.iter().find(|row| row.try_get::<i64, _>("version").is_ok_and(|v| v == version))
            else {
                return Err(LedgerError::schema("the ledger's tables are older than this build"));
            };
            if row.try_get::<Vec<u8>, _>("checksum")? != *migration.checksum {
                return Err(LedgerError::Schema(format!(
                    "the ledger's tables were created by another build (migration {version} differs)"
                )));
            }
        }
        Ok(())
    }

    /// Adds the reason for which the pool got no connection, in the words of the server: the pool tries until its time is up
    /// and does not tell why.
    async fn explain(&self, error: sqlx::Error) -> LedgerError {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            let options = self.pool.connect_options();
            let connecting = AnyConnection::connect_with(&options);
            if let Ok(Err(reason)) = tokio::time::timeout(REASON_TIMEOUT, connecting).await {
                return reason.into();
            }
        }
        error.into()
    }
}

/// Returns the migrations of this build. Accepts a ledger that a newer build has migrated, for rolling upgrades.
fn migrations() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrations = Migrator::with_migrations(migrations.into());
    migrations.set_ignore_missing(true);
    migrations
}

fn sqlite_pool(pool: AnyPoolOptions) -> AnyPoolOptions {
    // An in-memory database lives as long as its connection, so the pool never closes the connection. Nor does the pool
    // test it before use: a caller that gives up during the test would drop the connection.
    let pool = pool.max_connections(1).idle_timeout(None).max_lifetime(None).test_before_acquire(false);
    pool.after_connect(|connection, _| {
        // WAL: readers do not wait for the writer. NORMAL: a commit survives a crash of the process; a crash of the machine
        // may lose the last few. Foreign keys and a busy timeout of 5 s are on by default.
        let pragmas = sqlx::raw_sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;");
        Box::pin(async move { pragmas.execute(connection).await.map(drop) })
    })
}

/// Converts the part after `sqlite:` to a URL for the driver, whatever characters the path has.
fn sqlite_url(file: &str) -> Result<Url, LedgerError> {
    let bad_url = |reason: String| LedgerError::Url(reason);
    if file == ":memory:" {
        return Url::parse("sqlite::memory:").map_err(|reason| bad_url(reason.to_string()));
    }
    let file = file.strip_prefix("//").unwrap_or(file);
    let file = std::path::absolute(Path::new(file))
        .map_err(|reason| bad_url(format!("SQLite file {file:?}: {reason}")))?;
    let folder = file.parent().ok_or_else(|| bad_url(format!("{file:?} is no file")))?;
    std::fs::create_dir_all(folder)
        .map_err(|reason| bad_url(format!("cannot create the folder {folder:?}: {reason}")))?;
    let path = Url::from_file_path(&file).map_err(|()| bad_url(format!("{file:?} is no path")))?;
    Url::parse(&format!("sqlite://{}?mode=rwc", path.path())).map_err(|reason| bad_url(reason.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(url: &str) -> Result<Ledger, LedgerError> {
        let settings =
            LedgerSettings { acquire_timeout: Duration::from_millis(300), ..LedgerSettings::default() };
        Ledger::open(&SecretUrl::new(url), &settings).await
    }

    #[tokio::test]
    async fn opens_an_in_memory_ledger() {
        let ledger = opened("sqlite::memory:").await.unwrap();
        ledger.migrate().await.unwrap();
        ledger.check().await.unwrap();
        let other = opened("sqlite::memory:").await.unwrap();
        assert!(other.check().await.is_err(), "a second in-memory ledger has no tables");
    }

    #[tokio::test]
    async fn lists_every_migration_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let found = Migrator::new(folder).await.unwrap();
        let known = migrations();
        let identity = |migration: &Migration| {
            (migration.version, migration.description.clone(), migration.checksum.clone())
        };
        assert_eq!(
            found.iter().map(identity).collect::<Vec<_>>(),
            known.iter().map(identity).collect::<Vec<_>>()
        );
    }

    /// The first call is cancelled as soon as it has the connection, each further call a little later.
    #[tokio::test]
    async fn in_memory_ledger_survives_cancelled_calls() {
        let ledger = opened("sqlite::memory:").await.unwrap();
        ledger.migrate().await.unwrap();
        for yields in 0..10 {
            // Wait until the connection is back in the pool, or closed if it was lost.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let wait = async {
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                checked = ledger.check() => checked.unwrap(),
                () = wait => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        ledger.check().await.unwrap();
    }

    #[tokio::test]
    async fn unreachable_server_is_a_transient_error() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let ledger = opened(&format!("postgres://user:secret@{closed}/jobs")).await.unwrap();
        for error in [ledger.check().await.unwrap_err(), ledger.migrate().await.unwrap_err()] {
            assert!(error.is_transient(), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn rejects_bad_urls_without_showing_passwords() {
        for url in [
            "",
            "jobs.db",
            "mysql://u:secret@h/db",
            "postgres://u:secret@h:port/db",
            "sqlite:///dev/null/jobs.db",
        ] {
            let error = opened(url).await.err().expect(url);
            assert!(error.to_string().starts_with("ledger: bad URL: "), "{error}");
            assert!(!error.is_transient() && !error.to_string().contains("secret"), "{error}");
        }
    }
}
