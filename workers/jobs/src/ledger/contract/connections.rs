//! Connections to Postgres that are kept between statements.

use super::*;

/// Returns a number by a statement of a worker.
async fn answer(ledger: &Ledger, sql: &'static str) -> Result<i32, LedgerError> {
    let rows = ledger.rows(sqlx::query(sql)).await?;
    Ok(rows[0].try_get("number")?)
}

fn used(ledger: &Ledger) -> usize {
    ledger.pool.size() as usize - ledger.pool.num_idle()
}

/// Waits until the pool has taken back what it was given, and returns the number of connections that it lends.
async fn lent(ledger: &Ledger) -> usize {
    tokio::time::sleep(Duration::from_millis(300)).await;
    used(ledger)
}

#[tokio::test]
#[ignore = "needs Postgres"]
async fn half_of_the_connections_are_kept_for_a_second() {
    let database = TestDatabase::postgres().await;
    let settings = LedgerSettings { connections: 4, ..LedgerSettings::default() };
    let ledger = Ledger::open(&database.url, &settings).await.unwrap();
    assert_eq!(answer(&ledger, "SELECT 7 AS number").await.unwrap(), 7);
    assert_eq!(used(&ledger), 1);
    let sleep = "SELECT 8 AS number FROM pg_sleep(0.2)";
    let answers = race(4, |_| {
        let ledger = ledger.clone();
        async move { answer(&ledger, sleep).await.unwrap() }
    });
    assert_eq!(answers.await, [8; 4]);
    assert_eq!(lent(&ledger).await, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answer(&ledger, "SELECT 9 AS number").await.unwrap(), 9);
    assert_eq!(lent(&ledger).await, 1);
    drop_database(&database.url).await;
}

#[tokio::test]
#[ignore = "needs Postgres"]
async fn connection_of_a_cancelled_statement_is_not_kept() {
    let database = TestDatabase::postgres().await;
    let ledger = database.open().await;
    let sleep = answer(&ledger, "SELECT 1 AS number FROM pg_sleep(0.5)");
    assert!(tokio::time::timeout(Duration::from_millis(200), sleep).await.is_err());
    assert!(answer(&ledger, "SELECT 1 / 0 AS number").await.is_err());
    for _ in 0..3 {
        assert_eq!(answer(&ledger, "SELECT 2 AS number").await.unwrap(), 2);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lent(&ledger).await, 1);
    drop_database(&database.url).await;
}

#[tokio::test]
#[ignore = "needs Postgres"]
async fn kept_connection_that_broke_fails_one_statement() {
    let database = TestDatabase::postgres().await;
    let ledger = database.open().await;
    let pid = answer(&ledger, "SELECT pg_backend_pid() AS number").await.unwrap();
    run_on_server(&format!("SELECT pg_terminate_backend({pid})")).await;
    let error = answer(&ledger, "SELECT 1 AS number").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(answer(&ledger, "SELECT 1 AS number").await.unwrap(), 1);
    drop_database(&database.url).await;
}

/// The last user of a ledger may drop it after the runtime has ended.
#[test]
#[ignore = "needs Postgres"]
fn ledger_may_be_dropped_outside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (database, ledger) = runtime.block_on(async {
        let database = TestDatabase::postgres().await;
        let ledger = database.open().await;
        answer(&ledger, "SELECT 1 AS number").await.unwrap();
        (database, ledger)
    });
    drop(ledger);
    runtime.block_on(drop_database(&database.url));
}
