//! What every ledger keeps to, whatever database it stands in.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

mod items;
mod jobs;
mod outbox;

use self::items::*;
use self::jobs::*;
use self::outbox::*;
use super::*;
use crate::job::*;
use crate::queue::{Event, Message};
use crate::trace::TraceContext;

const LEASE: Duration = Duration::from_millis(1_000);
const T0: Millis = 1_700_000_000_000;

/// A database of a test's own.
struct Place {
    url: SecretUrl,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A name that means something in a URL.
        let url = SecretUrl::new(format!("sqlite://{}/new folder/jobs %20#1.db", folder.path().display()));
        Self { url, _folder: Some(folder) }
    }

    async fn postgres() -> Self {
        let mut url = server();
        url.set_path(&format!("flamingo_{}", uuid::Uuid::now_v7().simple()));
        run_on_server(&format!("CREATE DATABASE {}", &url.path()[1..])).await;
        Self { url: SecretUrl::new(url), _folder: None }
    }

    /// Connections of their own, as another process has.
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

/// After a test that succeeded; what a failed one leaves may tell why.
async fn drop_database(url: &SecretUrl) {
    let url = Url::parse(url.reveal()).unwrap();
    let drop = format!("DROP DATABASE {} WITH (FORCE)", &url.path()[1..]);
    // The server's own vacuum may be at it, whose process only a superuser may end.
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
                    super::$name(super::Place::sqlite()).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs Postgres"]
                async fn $name() {
                    let place = super::Place::postgres().await;
                    let url = place.url.clone();
                    super::$name(place).await;
                    super::drop_database(&url).await;
                }
            )*
        }
    };
}

contract! {
    tables_are_made_once
    tables_are_made_by_many_at_once
    a_job_is_accepted_once
    of_many_that_ask_one_is_new
    a_job_goes_through_its_states
    of_many_claims_one_holds
    an_expired_job_goes_to_another
    a_job_given_back_is_rung_for_when_it_is_due
    a_failed_job_ends_its_items
    a_job_ended_from_outside_lets_go
    a_job_ended_while_it_is_listed_ends
    what_has_ended_is_not_ended_early
    a_job_waits_for_its_time
    an_overdue_job_is_found
    a_page_may_come_again
    an_item_is_claimed_by_one
    the_old_holder_is_fenced_off
    a_heartbeat_keeps_an_item
    an_item_says_why_it_is_not_to_be_had
    giving_back_does_not_count
    an_end_may_be_said_again
    lost_bells_ring_once
    a_bell_belongs_to_the_trace_of_its_job
    pages_are_whole
    several_jobs_are_counted_at_once
    one_item_is_what_its_page_says
    the_end_and_its_news_are_one
    news_are_taken_in_order
    of_many_relays_one_sends
    news_are_kept_as_they_are
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
    let item = |n| NewItem { id: item_id(n), message: format!("message {n}") };
    numbers.map(item).collect()
}

fn item_id(n: usize) -> ItemId {
    ItemId::try_from(format!("clip-{n}")).unwrap()
}

async fn accepted(ledger: &Ledger) -> JobId {
    let id = JobId::mint();
    let job = job_named(id.as_str(), id.as_str(), "request");
    assert!(matches!(ledger.accept(&job, T0).await.unwrap(), Accepted::New(_)));
    id
}

fn event(topic: &str) -> Event {
    Event { topic: topic.to_owned(), message: Message::new(topic.to_owned(), "event/1", "{}") }
}

fn news() -> Event {
    event("job.ended")
}

async fn claim_job(ledger: &Ledger, id: &JobId, now: Millis) -> JobClaim {
    ledger.claim_job(id, "worker", now, LEASE).await.unwrap().expect("the job is to be had")
}

/// A job with that many items, queued at `T0`.
async fn expanded(ledger: &Ledger, count: usize) -> JobId {
    let id = accepted(ledger).await;
    let claim = claim_job(ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &clips(0..count), 0, T0).await.unwrap());
    assert!(ledger.expanded(&claim, T0).await.unwrap());
    id
}

async fn claim_item(ledger: &Ledger, job: &JobId, n: usize, now: Millis) -> ItemClaim {
    match ledger.claim_item(job, &item_id(n), "worker", now, LEASE).await.unwrap() {
        ClaimedItem::Yes(claim) => claim,
        other => panic!("clip-{n} is not to be had: {other:?}"),
    }
}

/// Runs them all at the same time, each on a task of its own.
async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    runners: usize,
    run: impl Fn(usize) -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (0..runners).map(|n| tokio::spawn(run(n))).collect();
    join_all(tasks).await.into_iter().map(|outcome| outcome.unwrap()).collect()
}

async fn tables_are_made_once(place: Place) {
    let ledger = place.open().await;
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

async fn tables_are_made_by_many_at_once(place: Place) {
    let ledgers = join_all((0..4).map(|_| place.open())).await;
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
async fn cut_connections_are_replaced() {
    let place = Place::postgres().await;
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let database = Url::parse(place.url.reveal()).unwrap().path()[1..].to_owned();
    run_on_server(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    ))
    .await;
    for _ in 0..8 {
        match ledger.job(&id).await {
            Ok(job) => assert!(job.is_some()),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    assert!(ledger.job(&id).await.unwrap().is_some());
    drop_database(&place.url).await;
}
