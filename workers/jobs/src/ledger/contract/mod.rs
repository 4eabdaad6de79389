//! Contract suite that the ledger must pass on every database.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

mod connections;
mod items;
mod jobs;
mod outbox;
mod results;
mod routes;

use self::items::*;
use self::jobs::*;
use self::outbox::*;
use self::results::*;
use self::routes::*;
use super::*;
use crate::job::{NewItem, NewJob};
use crate::queue::{Address, Event, Lane, Message, Route};
use crate::state::{Counts, EarlyEnd, ItemEnd, ItemState, JobEnd, JobState};
use crate::time::{Millis, RequestTime};
use crate::trace::TraceContext;
use crate::{Disposition, Failure, ItemId, JobId, RetryCost, Stopped};

const LEASE: Duration = Duration::from_millis(1_000);
const T0: Millis = 1_700_000_000_000;

/// Database of one test.
struct TestDatabase {
    url: SecretUrl,
    _folder: Option<tempfile::TempDir>,
}

impl TestDatabase {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The name has characters with a meaning in URLs.
        let url = SecretUrl::new(format!("sqlite://{}/new folder/jobs %20#1.db", folder.path().display()));
        Self { url, _folder: Some(folder) }
    }

    async fn postgres() -> Self {
        let mut url = server();
        url.set_path(&format!("flamingo_{}", uuid::Uuid::now_v7().simple()));
        run_on_server(&format!("CREATE DATABASE {}", &url.path()[1..])).await;
        Self { url: SecretUrl::new(url), _folder: None }
    }

    /// Opens the ledger with separate connections, like another process.
    async fn open(&self) -> Ledger {
        Ledger::open(&self.url, &LedgerSettings::default()).await.unwrap()
    }

    async fn ready(&self) -> Ledger {
        let ledger = self.open().await;
        ledger.migrate().await.unwrap();
        ledger
    }
}

fn server() -> Url {
    Url::parse(&std::env::var("FLAMINGO_TEST_POSTGRES").expect("FLAMINGO_TEST_POSTGRES")).unwrap()
}

async fn run_on_server(sql: &str) {
    try_on_server(sql).await.unwrap();
}

async fn try_on_server(sql: &str) -> Result<(), sqlx::Error> {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(server().as_str()).await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.map(|_| ())
}

/// Drops the database of a successful test; that of a failed one stays for inspection.
async fn drop_database(url: &SecretUrl) {
    let url = Url::parse(url.reveal()).unwrap();
    let drop = format!("DROP DATABASE {} WITH (FORCE)", &url.path()[1..]);
    // The server's vacuum may be using it, and only a superuser may end that process.
    let mut tries = 0;
    while let Err(error) = try_on_server(&drop).await {
        tries += 1;
        assert!(tries < 20, "{error}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

macro_rules! contract {
    ($($name:ident)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(super::TestDatabase::sqlite()).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs Postgres"]
                async fn $name() {
                    let database = super::TestDatabase::postgres().await;
                    let url = database.url.clone();
                    super::$name(database).await;
                    super::drop_database(&url).await;
                }
            )*
        }
    };
}

contract! {
    clock_continues_between_readings
    migrating_twice_keeps_the_tables
    concurrent_migrations_succeed
    accepts_a_job_once
    only_one_of_many_submissions_is_new
    job_enters_its_states_in_order
    only_one_of_many_claims_succeeds
    expired_job_lease_lets_another_worker_claim
    released_job_gets_a_message_when_due
    failing_a_job_fails_its_open_items
    cancelled_job_invalidates_claims
    job_ended_during_listing_finishes
    ended_job_cannot_end_early
    job_waits_for_not_before
    durations_begin_at_acceptance
    finds_overdue_jobs
    inserting_a_page_twice_changes_nothing
    only_one_of_many_item_claims_succeeds
    stale_claim_changes_nothing
    heartbeats_keep_an_item
    claim_outcome_gives_the_reason
    releases_and_losses_are_no_attempts
    ending_an_item_twice_succeeds
    lost_messages_are_returned_once
    pending_messages_carry_the_trace_of_their_job
    pages_list_every_row_once
    counts_items_of_several_jobs
    item_equals_its_row_in_the_page
    only_workers_with_the_route_claim_an_item
    lost_messages_are_returned_by_route
    names_routes_without_a_worker
    workers_without_heartbeats_are_forgotten
    only_the_finalizing_worker_fails_succeeded_items
    pages_have_the_contents_of_items
    job_end_and_event_are_atomic
    claims_events_in_order
    only_one_of_many_relays_claims_an_event
    untrusted_event_texts_round_trip
    processes_share_a_ledger
}

fn job_named(id: &str, key: &str, request: &str) -> NewJob {
    NewJob {
        id: JobId::try_from(id.to_owned()).unwrap(),
        key: key.to_owned(),
        request_sha256: request.to_owned(),
        message: format!("{{\"job\":\"{id}\"}}"),
        not_before: None,
        deadline: None,
        trace: TraceContext::default(),
    }
}

fn clips(numbers: std::ops::Range<usize>) -> Vec<NewItem> {
    let lane = |n: usize| if n.is_multiple_of(2) { Lane::Items } else { Lane::Urgent };
    let item = |n| NewItem { id: item_id(n), queue: lane(n).into(), message: format!("message {n}") };
    numbers.map(item).collect()
}

fn item_id(n: usize) -> ItemId {
    ItemId::try_from(format!("clip-{n}")).unwrap()
}

fn at(time: Millis) -> Option<RequestTime> {
    Some(RequestTime::At(jiff::Timestamp::from_millisecond(time).unwrap()))
}

async fn accepted(ledger: &Ledger) -> JobId {
    let id = JobId::generate();
    let job = job_named(id.as_str(), id.as_str(), "request");
    assert!(matches!(ledger.accept(&job, T0).await.unwrap(), Accepted::New(_)));
    id
}

fn event(topic: &str) -> Event {
    Event { topic: topic.to_owned(), message: Message::new(topic.to_owned(), "event/1", "{}") }
}

fn end_event() -> Event {
    event("job.ended")
}

async fn claim_job(ledger: &Ledger, id: &JobId, now: Millis) -> JobClaim {
    ledger.claim_job(id, "worker", now, LEASE).await.unwrap().expect("the job can be claimed")
}

/// Creates a job with `count` items, queued at `T0`.
async fn expanded_job(ledger: &Ledger, count: usize) -> JobId {
    let id = accepted(ledger).await;
    let claim = claim_job(ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &clips(0..count), 0, T0).await.unwrap());
    assert!(ledger.finish_listing(&claim, T0).await.unwrap());
    id
}

async fn claim_item(ledger: &Ledger, job: &JobId, n: usize, now: Millis) -> ItemClaim {
    match ledger.claim_item(job, &item_id(n), "worker", None, now, LEASE).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("clip-{n} cannot be claimed: {other:?}"),
    }
}

fn retry(reason: &Failure, cost: RetryCost) -> Stopped {
    Stopped::new(Disposition::Retry(cost), reason.clone())
}

fn cancelled() -> Stopped {
    Stopped::new(Disposition::Cancelled, Failure::new("released", "this worker is stopping"))
}

/// Runs all concurrently, each in a task of its own.
async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    runners: usize,
    run: impl Fn(usize) -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (0..runners).map(|n| tokio::spawn(run(n))).collect();
    join_all(tasks).await.into_iter().map(|outcome| outcome.unwrap()).collect()
}

async fn clock_continues_between_readings(database: TestDatabase) {
    let ledger = database.open().await;
    let first = ledger.now().await.unwrap();
    // The server of the tests is on this machine.
    assert!(ledger.clock_skew().await.unwrap().abs() < 1_000);
    ledger.pool.close().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let passed = ledger.now().await.unwrap() - first;
    assert!((50..4_000).contains(&passed), "{passed} ms");
    assert!(database.open().await.now().await.unwrap() >= first + 50);
}

async fn migrating_twice_keeps_the_tables(database: TestDatabase) {
    let ledger = database.open().await;
    let error = ledger.check().await.unwrap_err();
    assert_eq!(error.to_string(), "ledger: the ledger has no tables yet: run `flamingo migrate`");
    assert!(!error.is_transient());
    ledger.migrate().await.unwrap();
    ledger.check().await.unwrap();
    let id = accepted(&ledger).await;
    ledger.migrate().await.unwrap();
    assert!(ledger.job(&id).await.unwrap().is_some());

    sqlx::query("DELETE FROM _sqlx_migrations").execute(&ledger.pool).await.unwrap();
    let error = ledger.check().await.unwrap_err().to_string();
    assert!(error.contains("older than this build") && error.contains("flamingo migrate"), "{error}");
}

async fn concurrent_migrations_succeed(database: TestDatabase) {
    let ledgers = join_all((0..4).map(|_| database.open())).await;
    let outcomes = race(4, |n| {
        let ledger = ledgers[n].clone();
        async move { ledger.migrate().await }
    })
    .await;
    for outcome in outcomes {
        outcome.unwrap();
    }
    ledgers[0].check().await.unwrap();
}

#[tokio::test]
#[ignore = "needs Postgres"]
async fn replaces_terminated_connections() {
    let database = TestDatabase::postgres().await;
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let name = Url::parse(database.url.reveal()).unwrap().path()[1..].to_owned();
    run_on_server(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    ))
    .await;
    for _ in 0..8 {
        match ledger.job(&id).await {
            Ok(job) => assert!(job.is_some()),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    assert!(ledger.job(&id).await.unwrap().is_some());
    drop_database(&database.url).await;
}
