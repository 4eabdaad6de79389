//! The truth about jobs and items, in SQL: one set of statements for SQLite and Postgres.
//!
//! Whoever works on a job or an item **claims** it for the length of a **lease** and gets an attempt number. Every
//! later statement of his names that number: once somebody else has claimed, it changes nothing and answers `false`.
//! That is the **fence**. Times come from the caller as `now`, so tests need no sleeping.
//!
//! Statements that claim or ring have their condition twice, in the subselect that finds rows and in the update itself:
//! Postgres checks only the latter again after it has waited for somebody else's change of the same row.

use std::path::Path;
use std::time::Duration;

use sqlx::any::{Any, AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::query::Query;
use sqlx::{AnyPool, Row, SqlSafeStr};
use url::Url;

mod error;
mod record;
mod counts;
mod outbox;
mod jobs;
mod items;
mod sweep;

#[cfg(test)]
mod contract;

pub use error::LedgerError;
pub use items::{ClaimedItem, ItemClaim, Toll};
pub use jobs::{Accepted, JobClaim};
pub use outbox::News;
pub use record::{ItemRecord, JobRecord};
pub use sweep::{Bell, JobBell};

use crate::job::SecretUrl;

/// The files of `migrations/`. By hand, for `sqlx::migrate!` would compile both databases' drivers twice.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "jobs", include_str!("../../../../migrations/0001_jobs.sql")),
    (2, "early ends", include_str!("../../../../migrations/0002_early_ends.sql")),
    (3, "lost workers", include_str!("../../../../migrations/0003_lost_workers.sql")),
    (4, "outbox", include_str!("../../../../migrations/0004_outbox.sql")),
    (5, "traces", include_str!("../../../../migrations/0005_traces.sql")),
];

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSettings {
    /// Connections to Postgres at most. SQLite has one: it has one writer at a time anyway, and callers of this
    /// process who wait for a connection are served in order, which callers who wait for a lock on the file are not.
    pub connections: u32,
    /// How long to wait for a connection before an error is reported.
    pub patience: Duration,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self { connections: 8, patience: Duration::from_secs(5) }
    }
}

/// The ledger. Clones share its connections.
#[derive(Clone)]
pub struct Ledger {
    pool: AnyPool,
}

impl Ledger {
    /// `sqlite://PATH` (relative or absolute; made when it is missing), `sqlite::memory:` or `postgres://...`.
    /// Connects when it is first used: the server need not be up.
    ///
    /// # Errors
    /// The URL names no ledger, or the folder of the SQLite file cannot be made.
    pub async fn open(url: &SecretUrl, settings: &LedgerSettings) -> Result<Self, LedgerError> {
        sqlx::any::install_default_drivers();
        let pool = AnyPoolOptions::new().acquire_timeout(settings.patience);
        let text = url.reveal();
        let (pool, url) = match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                let url = Url::parse(text).map_err(|why| LedgerError::Url(why.to_string()))?;
                (pool.max_connections(settings.connections), url)
            }
            Some(("sqlite", file)) => (sqlite_pool(pool), sqlite_url(file)?),
            _ => return Err(LedgerError::Url("expected sqlite://PATH or postgres://...".to_owned())),
        };
        let options: AnyConnectOptions = url.as_str().parse().map_err(LedgerError::Sql)?;
        Ok(Self { pool: pool.connect_lazy_with(options) })
    }

    /// Makes the tables, or brings them up to date. Does no harm when it has been done, or is being done by somebody
    /// else.
    ///
    /// # Errors
    /// The ledger cannot be reached, or a table that this build made was changed by hand.
    pub async fn migrate(&self) -> Result<(), LedgerError> {
        // SQLite has no lock for migrations: when two processes begin together the slower one fails on tables that are
        // there now, and may fall behind again at each migration. What is still wrong then is wrong.
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
        // Not `run`: with a borrowed connection its future is not `Send` (rust-lang/rust#100013).
        let outcome = migrations().run_direct(None, &mut *connection, false).await;
        if outcome.is_err() {
            // Postgres's lock for migrations belongs to the connection, which would keep it after a failure.
            connection.close().await?;
        }
        Ok(outcome?)
    }

    /// Is it there, with everything that this build needs?
    ///
    /// # Errors
    /// It is not; the text says what to do.
    pub async fn check(&self) -> Result<(), LedgerError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        let applied =
            sqlx::query("SELECT version, checksum FROM _sqlx_migrations").fetch_all(&self.pool).await;
        let applied = applied.map_err(|error| match LedgerError::from(error) {
            error if error.is_transient() => error,
            // It answers, but does not know the table.
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
                    "the ledger's tables were made by another build (migration {version} differs)"
                )));
            }
        }
        Ok(())
    }

    /// Runs a write that returns at most one row.
    async fn written(&self, query: Query<'_, Any, AnyArguments>) -> Result<Option<AnyRow>, LedgerError> {
        // Not `fetch_optional`: on SQLite that answers with the first row, before the statement has committed.
        Ok(query.fetch_all(&self.pool).await?.pop())
    }

    /// Runs a write; did it change anything?
    async fn changed(&self, query: Query<'_, Any, AnyArguments>) -> Result<bool, LedgerError> {
        Ok(query.execute(&self.pool).await?.rows_affected() > 0)
    }
}

/// A ledger that a newer build has migrated serves this one too: rolling upgrades.
fn migrations() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrations = Migrator::with_migrations(migrations.into());
    migrations.set_ignore_missing(true);
    migrations
}

fn sqlite_pool(pool: AnyPoolOptions) -> AnyPoolOptions {
    // A memory database lives as long as its connection, so the connection is never retired. Nor is it tested before
    // it is lent: a caller that gives up during the test takes the connection with it.
    let pool = pool.max_connections(1).idle_timeout(None).max_lifetime(None).test_before_acquire(false);
    pool.after_connect(|connection, _| {
        // Readers do not wait for the writer; a commit survives the end of the process, and of the machine up to the
        // last few. Foreign keys and a busy timeout of 5 s are on by default.
        let pragmas = sqlx::raw_sql("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;");
        Box::pin(async move { pragmas.execute(connection).await.map(drop) })
    })
}

/// What stands behind `sqlite:` as the URL that the driver understands, whatever characters the path has.
fn sqlite_url(file: &str) -> Result<Url, LedgerError> {
    let wrong = |why: String| LedgerError::Url(why);
    if file == ":memory:" {
        return Url::parse("sqlite::memory:").map_err(|why| wrong(why.to_string()));
    }
    let file = file.strip_prefix("//").unwrap_or(file);
    let file =
        std::path::absolute(Path::new(file)).map_err(|why| wrong(format!("SQLite file {file:?}: {why}")))?;
    let folder = file.parent().ok_or_else(|| wrong(format!("{file:?} is no file")))?;
    std::fs::create_dir_all(folder)
        .map_err(|why| wrong(format!("cannot make the folder {folder:?}: {why}")))?;
    let path = Url::from_file_path(&file).map_err(|()| wrong(format!("{file:?} is no path")))?;
    Url::parse(&format!("sqlite://{}?mode=rwc", path.path())).map_err(|why| wrong(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(url: &str) -> Result<Ledger, LedgerError> {
        let settings = LedgerSettings { patience: Duration::from_millis(300), ..LedgerSettings::default() };
        Ledger::open(&SecretUrl::new(url), &settings).await
    }

    #[tokio::test]
    async fn a_ledger_in_memory_is_a_ledger() {
        let ledger = opened("sqlite::memory:").await.unwrap();
        ledger.migrate().await.unwrap();
        ledger.check().await.unwrap();
        let other = opened("sqlite::memory:").await.unwrap();
        assert!(other.check().await.is_err(), "another one");
    }

    #[tokio::test]
    async fn every_migration_of_the_folder_is_known() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let found = Migrator::new(folder).await.unwrap();
        let known = migrations();
        let told = |migration: &Migration| {
            (migration.version, migration.description.clone(), migration.checksum.clone())
        };
        assert_eq!(found.iter().map(told).collect::<Vec<_>>(), known.iter().map(told).collect::<Vec<_>>());
    }

    /// The first gives up as soon as it has the connection, each other a little later.
    #[tokio::test]
    async fn a_ledger_in_memory_outlives_callers_that_give_up() {
        let ledger = opened("sqlite::memory:").await.unwrap();
        ledger.migrate().await.unwrap();
        for patience in 0..10 {
            // Until the connection is back, or, were it lost, closed: the next would save what it had.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let wait = async {
                for _ in 0..patience {
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
    async fn a_server_that_is_not_there_is_asked_again_later() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let ledger = opened(&format!("postgres://user:secret@{closed}/jobs")).await.unwrap();
        for error in [ledger.check().await.unwrap_err(), ledger.migrate().await.unwrap_err()] {
            assert!(error.is_transient(), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_url_that_names_no_ledger_says_so() {
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
