//! What every ledger keeps to, whatever database it stands in.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

use super::*;
use crate::job::*;

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
        let server = std::env::var("FLAMINGO_TEST_POSTGRES").expect("FLAMINGO_TEST_POSTGRES");
        let name = format!("flamingo_{}", uuid::Uuid::now_v7().simple());
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&server).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        let mut url = Url::parse(&server).unwrap();
        url.set_path(&name);
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
                    super::$name(super::Place::postgres().await).await;
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
    a_page_may_come_again
    an_item_is_claimed_by_one
    the_old_holder_is_fenced_off
    a_heartbeat_keeps_an_item
    an_item_says_why_it_is_not_to_be_had
    giving_back_does_not_count
    an_end_may_be_said_again
    lost_bells_ring_once
    pages_are_whole
    processes_share_a_ledger
}

fn job_named(id: &str, key: &str, request: &str) -> NewJob {
    NewJob {
        id: JobId::try_from(id.to_owned()).unwrap(),
        key: key.to_owned(),
        request_sha256: request.to_owned(),
        message: format!("{{\"job\":\"{id}\"}}"),
    }
}

fn items(numbers: std::ops::Range<usize>) -> Vec<NewItem> {
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

async fn claim_job(ledger: &Ledger, id: &JobId, now: Millis) -> JobClaim {
    ledger.claim_job(id, "worker", now, LEASE).await.unwrap().expect("the job is to be had")
}

/// A job with that many items, queued at `T0`.
async fn expanded(ledger: &Ledger, count: usize) -> JobId {
    let id = accepted(ledger).await;
    let claim = claim_job(ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &items(0..count), 0, T0).await.unwrap());
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

async fn a_job_is_accepted_once(place: Place) {
    let ledger = place.ready().await;
    let first = job_named("first", "key-1", "request");
    let Accepted::New(record) = ledger.accept(&first, T0).await.unwrap() else { panic!("not new") };
    assert_eq!((record.state, record.accepted_at(), record.attempt), (JobState::Accepted, T0, 0));
    assert_eq!(record.message, first.message);
    ledger.accept(&job_named("second", "key-2", "another request"), T0).await.unwrap();

    for (id, key, request, expected) in [
        ("first", "key-1", "request", Ok("first")),
        ("first", "key-9", "request", Ok("first")),
        ("third", "key-1", "request", Ok("first")),
        ("first", "key-1", "wish", Err("first")),
        ("third", "key-1", "wish", Err("first")),
        ("first", "key-2", "request", Err("second")),
        ("first", "key-2", "another request", Err("first")),
    ] {
        let got = match ledger.accept(&job_named(id, key, request), T0 + 1).await.unwrap() {
            Accepted::New(record) => panic!("{} is new", record.id),
            Accepted::Same(record) => Ok(record.id),
            Accepted::Conflict { existing } => Err(existing),
        };
        let got = got.as_ref().map(JobId::as_str).map_err(JobId::as_str);
        assert_eq!(got, expected, "{id} {key} {request}");
    }
    assert_eq!(ledger.job(&JobId::mint()).await.unwrap(), None);
}

async fn of_many_that_ask_one_is_new(place: Place) {
    let ledger = place.ready().await;
    let outcomes = race(16, |n| {
        let ledger = ledger.clone();
        async move { ledger.accept(&job_named(&format!("job-{n}"), "key", "request"), T0).await.unwrap() }
    })
    .await;
    let new = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::New(_))).count();
    let same = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Same(_))).count();
    assert_eq!((new, same), (1, 15));
}

async fn a_job_goes_through_its_states(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let listing = claim_job(&ledger, &id, T0 + 1).await;
    assert_eq!((listing.attempt, listing.record.state), (1, JobState::Validating));
    assert!(ledger.finalize(&listing, T0 + 2).await.unwrap().is_none(), "not every item is known");
    assert!(ledger.add_items(&listing, &items(0..2), 0, T0 + 2).await.unwrap());
    assert!(ledger.advance(&listing, "page 2", 2, T0 + 2, LEASE).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.cursor.as_deref(), record.next_position, record.total), (Some("page 2"), 2, None));
    assert!(ledger.expanded(&listing, T0 + 3).await.unwrap());
    assert!(!ledger.extend_job(&listing, T0 + 3, LEASE).await.unwrap(), "the claim has ended");

    let items = [claim_item(&ledger, &id, 0, T0 + 4).await, claim_item(&ledger, &id, 1, T0 + 5).await];
    assert_eq!((items[0].job_state, items[1].job_state), (JobState::Queued, JobState::Running));
    let failure = Failure::new("not_found", "clip-1 is not there");
    assert!(ledger.end_item(&items[0], &ItemEnd::Succeeded, T0 + 6).await.unwrap());
    assert!(ledger.any_open(&id).await.unwrap());
    let early = claim_job(&ledger, &id, T0 + 6).await;
    assert!(ledger.finalize(&early, T0 + 6).await.unwrap().is_none(), "an item is open");
    assert!(!ledger.finish(&early, &JobEnd::Succeeded, T0 + 6).await.unwrap(), "it is not finalizing");
    assert!(ledger.release_job(&early, T0 + 9).await.unwrap());
    assert!(ledger.end_item(&items[1], &ItemEnd::Failed(failure.clone()), T0 + 7).await.unwrap());
    assert!(!ledger.any_open(&id).await.unwrap());

    let gathering = claim_job(&ledger, &id, T0 + 8).await;
    let record = ledger.finalize(&gathering, T0 + 8).await.unwrap().unwrap();
    assert_eq!((record.state, record.total), (JobState::Finalizing, Some(2)));
    assert!(ledger.finalize(&gathering, T0 + 9).await.unwrap().is_some(), "again, after a crash");
    assert!(ledger.finish(&gathering, &JobEnd::PartiallySucceeded, T0 + 10).await.unwrap());
    assert!(ledger.finish(&gathering, &JobEnd::PartiallySucceeded, T0 + 11).await.unwrap(), "said again");
    assert!(!ledger.finish(&gathering, &JobEnd::Succeeded, T0 + 11).await.unwrap());
    assert!(ledger.claim_job(&id, "worker", T0 + 9_999, LEASE).await.unwrap().is_none(), "it has ended");

    let record = ledger.job(&id).await.unwrap().unwrap();
    let entered = JobState::ALL.map(|state| record.entered(state).map(|at| at - T0));
    assert_eq!(entered, [Some(0), Some(1), Some(3), Some(4), Some(8), None, Some(10), None]);
    let counts = Counts { total: 2, succeeded: 1, failed: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert_eq!(listed[1].failure, Some(failure));
    assert_eq!((listed[1].claimed_at, listed[1].ended_at), (Some(T0 + 5), Some(T0 + 7)));
}

async fn of_many_claims_one_holds(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 0).await;
    let claims = race(16, |n| {
        let (ledger, id) = (ledger.clone(), id.clone());
        async move { ledger.claim_job(&id, &format!("worker-{n}"), T0, LEASE).await.unwrap() }
    })
    .await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert!(ledger.finalize(&claims[0], T0).await.unwrap().is_some(), "a job without items is complete");
    assert!(ledger.finish(&claims[0], &JobEnd::Succeeded, T0).await.unwrap());
}

async fn an_expired_job_goes_to_another(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let old = claim_job(&ledger, &id, T0).await;
    assert!(ledger.claim_job(&id, "other", T0 + 1_000, LEASE).await.unwrap().is_none());
    assert!(ledger.extend_job(&old, T0 + 500, LEASE).await.unwrap());
    assert!(
        ledger.claim_job(&id, "other", T0 + 1_001, LEASE).await.unwrap().is_none(),
        "the heartbeat counts"
    );
    let new = claim_job(&ledger, &id, T0 + 1_501).await;
    assert_eq!(new.attempt, 2);

    let now = T0 + 1_502;
    assert!(!ledger.extend_job(&old, now, LEASE).await.unwrap());
    assert!(!ledger.add_items(&old, &items(0..3), 0, now).await.unwrap());
    assert!(!ledger.advance(&old, "cursor", 1, now, LEASE).await.unwrap());
    assert!(!ledger.expanded(&old, now).await.unwrap());
    assert!(ledger.finalize(&old, now).await.unwrap().is_none());
    assert!(!ledger.finish(&old, &JobEnd::Failed(Failure::new("x", "y")), now).await.unwrap());
    assert!(!ledger.release_job(&old, now).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().cursor, None);
    assert_eq!(ledger.counts(&id).await.unwrap().total, 0);
    assert!(ledger.expanded(&new, now).await.unwrap());
}

async fn a_job_given_back_is_rung_for_when_it_is_due(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let silent = Duration::from_millis(100);
    let rung = |now| {
        let ledger = ledger.clone();
        async move { ledger.due_jobs(now, silent, 10).await.unwrap().len() }
    };
    assert_eq!(rung(T0 + 100).await, 0, "it was accepted, and rung for, a moment ago");
    assert_eq!(rung(T0 + 101).await, 1);
    assert_eq!(rung(T0 + 102).await, 0, "rung for a moment ago");
    let claim = claim_job(&ledger, &id, T0 + 150).await;
    assert_eq!(rung(T0 + 1_000).await, 0, "somebody holds it");
    assert!(ledger.release_job(&claim, T0 + 3_000).await.unwrap());
    assert_eq!(rung(T0 + 2_999).await, 0, "not yet due");
    assert_eq!(rung(T0 + 3_000).await, 1);

    let claim = claim_job(&ledger, &id, T0 + 4_000).await;
    assert!(ledger.add_items(&claim, &items(0..1), 0, T0 + 4_000).await.unwrap());
    assert_eq!(rung(T0 + 5_001).await, 1, "its holder has fallen silent");
    let claim = claim_job(&ledger, &id, T0 + 6_000).await;
    assert!(ledger.expanded(&claim, T0 + 6_000).await.unwrap());
    assert_eq!(rung(T0 + 7_000).await, 0, "its items are being done");
    let item = claim_item(&ledger, &id, 0, T0 + 7_000).await;
    assert!(ledger.end_item(&item, &ItemEnd::Succeeded, T0 + 7_000).await.unwrap());
    assert_eq!(rung(T0 + 8_000).await, 1, "its results are to be gathered");
}

async fn a_failed_job_ends_its_items(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let claim = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &items(0..3), 0, T0).await.unwrap());
    let running = claim_item(&ledger, &id, 1, T0).await;
    let why = Failure::new("limit_exceeded", "too many items");
    assert!(ledger.finish(&claim, &JobEnd::Failed(why.clone()), T0 + 1).await.unwrap());

    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failure.as_ref()), (JobState::Failed, Some(&why)));
    assert_eq!(record.entered(JobState::Failed), Some(T0 + 1));
    assert!(!ledger.extend_item(&running, T0 + 1, LEASE).await.unwrap());
    assert!(!ledger.end_item(&running, &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert!(listed.iter().all(|item| item.state == ItemState::Failed && item.failure == Some(why.clone())));
}

async fn a_page_may_come_again(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let first = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&first, &items(0..1_234), 0, T0).await.unwrap());
    let done = claim_item(&ledger, &id, 7, T0).await;
    assert!(ledger.end_item(&done, &ItemEnd::Succeeded, T0).await.unwrap());
    // The process dies before it has said how far it came; the next one begins the page again.
    let second = claim_job(&ledger, &id, T0 + 2_000).await;
    assert_eq!((second.record.cursor.as_deref(), second.record.next_position), (None, 0));
    assert!(ledger.add_items(&second, &items(0..1_240), 0, T0 + 2_000).await.unwrap());
    assert!(ledger.add_items(&second, &[], 1_240, T0 + 2_000).await.unwrap());
    assert!(ledger.expanded(&second, T0 + 2_000).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().total, Some(1_240));
    let counts = Counts { total: 1_240, queued: 1_239, succeeded: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
}

async fn an_item_is_claimed_by_one(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 1).await;
    for (round, now) in [(1, T0), (2, T0 + 1_001)] {
        let claims =
            race(32, |n| {
                let (ledger, id) = (ledger.clone(), id.clone());
                async move {
                    ledger.claim_item(&id, &item_id(0), &format!("worker-{n}"), now, LEASE).await.unwrap()
                }
            })
            .await;
        let won: Vec<_> = claims.iter().filter(|claim| matches!(claim, ClaimedItem::Yes(_))).collect();
        assert_eq!(won.len(), 1);
        assert!(matches!(won[0], ClaimedItem::Yes(claim) if claim.attempt == round));
        let held = claims.iter().filter(|claim| **claim == ClaimedItem::Held { until: now + 1_000 }).count();
        assert_eq!(held, 31);
    }
}

async fn the_old_holder_is_fenced_off(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 2).await;
    // Once somebody else has claimed it, and once a sweep has only put it back.
    let old = [claim_item(&ledger, &id, 0, T0).await, claim_item(&ledger, &id, 1, T0).await];
    let now = T0 + 1_001;
    let new = claim_item(&ledger, &id, 0, now).await;
    let swept = ledger.expired_items(now, 10).await.unwrap();
    let expected = Bell { job: id.clone(), item: item_id(1), message: "message 1".to_owned() };
    assert_eq!(swept, [expected]);
    for old in &old {
        assert!(!ledger.extend_item(old, now, LEASE).await.unwrap());
        assert!(!ledger.end_item(old, &ItemEnd::Succeeded, now).await.unwrap());
        assert!(!ledger.retry_item(old, now, &Failure::new("x", "y")).await.unwrap());
        assert!(!ledger.give_back_item(old, now).await.unwrap());
    }
    assert!(ledger.end_item(&new, &ItemEnd::Succeeded, now).await.unwrap());
    assert_eq!(claim_item(&ledger, &id, 1, now).await.attempts(), 2);
}

async fn a_heartbeat_keeps_an_item(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 1).await;
    let claim = claim_item(&ledger, &id, 0, T0).await;
    for beat in 1..5 {
        assert!(ledger.extend_item(&claim, T0 + beat * 900, LEASE).await.unwrap());
        assert_eq!(ledger.expired_items(T0 + beat * 900 + 1_000, 10).await.unwrap(), []);
    }
    // Late, but nobody was faster.
    assert!(ledger.extend_item(&claim, T0 + 60_000, LEASE).await.unwrap());
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 70_000).await.unwrap());
}

async fn an_item_says_why_it_is_not_to_be_had(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 1).await;
    let ask = |n: usize, now: Millis| {
        let (ledger, id) = (ledger.clone(), id.clone());
        async move { ledger.claim_item(&id, &item_id(n), "other", now, LEASE).await.unwrap() }
    };
    assert_eq!(ask(9, T0).await, ClaimedItem::Unknown);
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!(ask(0, T0 + 1).await, ClaimedItem::Held { until: T0 + 1_000 });
    let why = Failure::new("store_unavailable", "the store does not answer");
    assert!(ledger.retry_item(&claim, T0 + 50, &why).await.unwrap());
    assert_eq!(ask(0, T0 + 49).await, ClaimedItem::Early { due: T0 + 50 });
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].failure, Some(why));
    let claim = claim_item(&ledger, &id, 0, T0 + 50).await;
    assert_eq!(claim.attempts(), 2);
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 60).await.unwrap());
    assert_eq!(ask(0, T0 + 9_999).await, ClaimedItem::Ended(ItemState::Succeeded));
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].failure, None, "it has succeeded after all");
}

async fn giving_back_does_not_count(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 1).await;
    for _ in 0..3 {
        let claim = claim_item(&ledger, &id, 0, T0).await;
        assert!(ledger.give_back_item(&claim, T0).await.unwrap());
        assert!(!ledger.give_back_item(&claim, T0).await.unwrap());
    }
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!((claim.attempt, claim.given_back, claim.attempts()), (4, 3, 1));
}

async fn an_end_may_be_said_again(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 1).await;
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 2).await.unwrap());
    assert!(!ledger.end_item(&claim, &ItemEnd::Failed(Failure::new("x", "y")), T0 + 2).await.unwrap());
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].ended_at, Some(T0 + 1));
}

/// One round of a sweep, six of each sort at most: the names of what it rings for.
async fn sweep(ledger: Ledger) -> Vec<String> {
    let (now, silent) = (T0 + 1_001, Duration::from_millis(500));
    let expired = ledger.expired_items(now, 6).await.unwrap();
    let forgotten = ledger.forgotten_items(now, silent, 6).await.unwrap();
    let jobs = ledger.due_jobs(now, silent, 6).await.unwrap();
    let items = expired.into_iter().chain(forgotten).map(|bell| bell.item.to_string());
    items.chain(jobs.into_iter().map(|bell| bell.id.to_string())).collect()
}

async fn lost_bells_ring_once(place: Place) {
    let ledger = place.ready().await;
    let job = expanded(&ledger, 40).await;
    for n in 0..20 {
        claim_item(&ledger, &job, n, T0).await;
    }
    let unheard = accepted(&ledger).await;
    let other = place.open().await;
    assert_eq!(ledger.forgotten_items(T0 + 500, Duration::from_millis(500), 100).await.unwrap(), []);
    let mut rung = race(8, |n| sweep(if n % 2 == 0 { ledger.clone() } else { other.clone() })).await.concat();
    // A sweeper that met another one on the same rows may come back with fewer: the rest is for the next round.
    loop {
        let more = sweep(ledger.clone()).await;
        if more.is_empty() {
            break;
        }
        rung.extend(more);
    }
    let mut expected: Vec<_> = (0..40).map(|n| item_id(n).to_string()).chain([unheard.to_string()]).collect();
    expected.sort();
    rung.sort();
    assert_eq!(rung, expected, "each exactly once");
}

async fn pages_are_whole(place: Place) {
    let ledger = place.ready().await;
    let job = expanded(&ledger, 23).await;
    let mut seen = Vec::new();
    loop {
        let after = seen.last().map(|item: &ItemRecord| (item.position, &item.id));
        let page = ledger.items(&job, after, 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.iter().map(|item| item.position).collect::<Vec<_>>(), (0..23).collect::<Vec<_>>());

    // Several in the same millisecond.
    for n in 0..11 {
        ledger
            .accept(&job_named(&format!("job-{n:02}"), &format!("key-{n}"), "r"), T0 + n / 4)
            .await
            .unwrap();
    }
    let mut seen: Vec<JobRecord> = Vec::new();
    loop {
        let after = seen.last().map(|job| (job.accepted_at(), &job.id));
        let page = ledger.jobs(after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.len(), 12);
    assert!(
        seen.windows(2)
            .all(|pair| (pair[0].accepted_at(), &pair[0].id) > (pair[1].accepted_at(), &pair[1].id))
    );
}

async fn processes_share_a_ledger(place: Place) {
    let first = place.ready().await;
    let job = expanded(&first, 60).await;
    let ledgers = [first, place.open().await, place.open().await];
    let ended = race(6, |n| {
        let (ledger, job) = (ledgers[n % 3].clone(), job.clone());
        async move {
            let mut ended = 0;
            for item in 0..60 {
                let claimed = ledger.claim_item(&job, &item_id(item), "worker", T0, LEASE).await.unwrap();
                if let ClaimedItem::Yes(claim) = claimed {
                    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0).await.unwrap());
                    ended += 1;
                }
            }
            ended
        }
    })
    .await;
    assert_eq!(ended.iter().sum::<usize>(), 60);
    assert_eq!(ledgers[0].counts(&job).await.unwrap().succeeded, 60);
}
