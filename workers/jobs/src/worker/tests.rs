//! Tests of the worker loop on the backends that need no server, with a scripted service.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::job::{NewItem, NewJob};
use crate::ledger::{ItemClaim, JobClaim, JobRecord, LedgerSettings};
use crate::queue::{Event, MemoryQueue, Message, QueueError, Sent};
use crate::secret_url::SecretUrl;
use crate::state::{ItemEnd, ItemState, JobState};
use crate::trace::TraceContext;
use crate::{Disposition, ItemId, RetryCost, Stopped};

mod grace;
mod losses;
mod messages;
mod outbox;
mod reports;
mod routes;

/// Service whose items have ids such as `good-1` or `retry-2.x`: the part before the dash is the script, and `x` the route.
struct Scripted {
    items: Vec<Vec<&'static str>>,
    reports: Mutex<HashMap<String, ItemEnd>>,
    runs: Mutex<HashMap<String, usize>>,
    ledger: Ledger,
}

struct NoObserver;

impl<R> Observer<R> for NoObserver {
    fn step(&self, _: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {}
}

/// Result of storing the report of an item with this script, or the results of a job with this id.
fn stored(name: &str) -> Result<(), Stopped> {
    match name {
        "unwritable" => Err(Stopped::fail(failure("bad_url"))),
        "foreign" => Err(Stopped::fail(failure("foreign"))),
        "unstored" => Err(Stopped::retry_free(failure("store_unavailable"))),
        _ => Ok(()),
    }
}

fn failure(code: &str) -> Failure {
    Failure::new(code, format!("it is {code}"))
}

fn event(topic: &str, id: &str) -> Event {
    Event { topic: topic.into(), message: Message::new(id.into(), "event/1", "") }
}

#[async_trait]
impl Service for Scripted {
    type Item = String;
    type Report = ();
    type Summary = ();

    const JOB_SCHEMA: &'static str = "job/1";
    const ITEM_SCHEMA: &'static str = "item/2";
    const PREVIOUS_ITEM_SCHEMA: Option<&'static str> = Some("item/1");

    fn parse_job(&self, message: &Message) -> Result<NewJob, Stopped> {
        let id = JobId::try_from(message.id.clone()).map_err(Stopped::fail)?;
        let newer = || Stopped::retry_free(failure("newer_schema"));
        let message = String::from_utf8(message.body.to_vec()).map_err(|_| newer())?;
        Ok(NewJob {
            key: id.to_string(),
            request_sha256: message.clone(),
            message,
            id,
            not_before: None,
            deadline: None,
            trace: TraceContext::default(),
        })
    }

    fn parse_item(&self, claim: &ItemClaim) -> Result<String, Stopped> {
        match claim.message.as_str() {
            "unreadable" => Err(Stopped::fail(failure("unreadable"))),
            content => Ok(content.to_owned()),
        }
    }

    async fn expand(&self, _: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped> {
        let at: usize = cursor.map_or(0, |text| text.parse().unwrap());
        let Some(names) = self.items.get(at) else { return Err(Stopped::fail(failure("unlistable"))) };
        let item = |name: &&str| NewItem {
            id: ItemId::try_from((*name).to_owned()).unwrap(),
            queue: Address {
                lane: if name.starts_with("urgent") { Lane::Urgent } else { Lane::Items },
                route: name.split_once('.').map(|(_, route)| Route::new(route)),
            },
            message: name.split_once('-').unwrap().0.into(),
        };
        let next = (at + 1 < self.items.len()).then(|| (at + 1).to_string());
        Ok(Page::until(names.iter().map(item).collect(), next))
    }

    async fn find_report(&self, item: &Claimed<String>) -> Result<Option<ItemEnd>, Stopped> {
        Ok(self.reports.lock().unwrap().get(item.claim.item.as_str()).cloned())
    }

    async fn run(&self, item: &Claimed<String>, context: &RunContext) -> Result<(), Stopped> {
        let runs = {
            let mut runs = self.runs.lock().unwrap();
            let runs = runs.entry(item.claim.item.to_string()).or_default();
            *runs += 1;
            *runs
        };
        let stopped = |disposition, code: &str| Err(Stopped::new(disposition, failure(code)));
        match item.item.as_str() {
            "good" | "urgent" | "lost" | "foreign" | "unwritable" | "unstored" => Ok(()),
            "bad" => stopped(Disposition::Fail, "bad"),
            "once" if runs > 1 => Ok(()),
            "once" | "retry" => stopped(Disposition::Retry(RetryCost::Attempt), "away"),
            "broken" => stopped(Disposition::WorkerFault, "broken"),
            "late" if runs <= 5 => stopped(Disposition::Retry(RetryCost::Free), "no_room"),
            "late" => Ok(()),
            "slow" => {
                context.stop.cancelled().await;
                stopped(Disposition::Cancelled, "cancelled")
            }
            other => panic!("no script for {other}"),
        }
    }

    async fn write(&self, item: &Claimed<String>, result: Result<&(), &Failure>) -> Result<ItemEnd, Stopped> {
        stored(&item.item)?;
        let end = result.map_or_else(|reason| ItemEnd::Failed(reason.clone()), |()| ItemEnd::Succeeded);
        Ok(self.reports.lock().unwrap().entry(item.claim.item.to_string()).or_insert(end).clone())
    }

    async fn gather(&self, claim: &JobClaim) -> Result<(), Stopped> {
        stored(claim.id.as_str())?;
        let lost = self.items.iter().flatten().filter(|name| name.starts_with("lost"));
        let lost = lost.map(|name| (ItemId::try_from((*name).to_owned()).unwrap(), failure("lost")));
        assert!(self.ledger.fail_succeeded_items(claim, &lost.collect::<Vec<_>>()).await.unwrap());
        Ok(())
    }

    async fn complete(&self, _: &EndedJob, (): &()) -> Result<(), Stopped> {
        Ok(())
    }

    fn end_event(&self, ended: &EndedJob) -> Event {
        event(&format!("job.{}", ended.end.state().as_str()), ended.record.id.as_str())
    }

    fn refusal_event(&self, message: &Message, reason: &Failure) -> Event {
        event(&format!("refused.{}", reason.code), &message.id)
    }
}

struct Fixture {
    queue: MemoryQueue,
    ledger: Ledger,
    service: Arc<Scripted>,
    stop: Stop,
}

impl Fixture {
    async fn new(items: &[&[&'static str]]) -> Self {
        let url = SecretUrl::new("sqlite::memory:");
        let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        ledger.migrate().await.unwrap();
        let items = items.iter().map(|page| page.to_vec()).collect();
        let (reports, runs) = (Mutex::default(), Mutex::default());
        let service = Scripted { items, reports, runs, ledger: ledger.clone() };
        Self { queue: MemoryQueue::new(), ledger, service: Arc::new(service), stop: Stop::default() }
    }

    fn worker(&self) -> Worker<Scripted> {
        let ms = Duration::from_millis;
        Worker {
            service: self.service.clone(),
            queue: Arc::new(self.queue.clone()),
            ledger: self.ledger.clone(),
            settings: WorkerSettings {
                name: "worker".into(),
                route: None,
                items: 2,
                lease: ms(500),
                heartbeat: ms(100),
                item_deadline: ms(700),
                grace: ms(200),
                urgent: 1,
                attempts: 3,
                losses: 3,
                backoff_first: ms(5),
                backoff_most: ms(20),
                retry_timeout: ms(100),
                sweep: ms(50),
                forgotten: ms(200),
            },
            observer: Arc::new(NoObserver),
            stop: self.stop.clone(),
        }
    }

    async fn send(&self, id: &str, body: &'static [u8]) {
        let message = Message::new(id.into(), "job/1", body);
        assert_eq!(self.queue.send(&Lane::Jobs.into(), &message).await.unwrap(), Sent::Confirmed);
    }

    /// Runs a worker until the job has ended. Returns the job, and state and failure code of its items.
    async fn ended(&self, id: &str) -> (JobRecord, HashMap<String, (ItemState, Option<String>)>) {
        let working = tokio::spawn(self.worker().run());
        let id = JobId::try_from(id.to_owned()).unwrap();
        let record = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                match self.ledger.job(&id).await.unwrap() {
                    Some(record) if record.state.is_end() => break record,
                    _ => {}
                }
            }
        });
        let record = record.await.expect("the job ends");
        self.stop.drain();
        working.await.unwrap().unwrap();
        let items = self.ledger.items(&id, None, 100).await.unwrap();
        let of = |item: crate::ledger::ItemRecord| {
            let code = item.failure.filter(|_| item.state == ItemState::Failed).map(|reason| reason.code);
            (item.id.to_string(), (item.state, code))
        };
        (record, items.into_iter().map(of).collect())
    }
}

#[tokio::test]
async fn each_item_ends_as_scripted() {
    let fixture = Fixture::new(&[&["good-1", "bad-1"], &[], &["once-1", "retry-1", "slow-1"]]).await;
    let mut events = fixture.queue.subscribe();
    fixture.send("job", b"").await;
    let (record, items) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    let failed = |code: &str| (ItemState::Failed, Some(code.to_owned()));
    let expected = [
        ("good-1", (ItemState::Succeeded, None)),
        ("bad-1", failed("bad")),
        ("once-1", (ItemState::Succeeded, None)),
        ("retry-1", failed("away")),
        ("slow-1", failed("item_deadline")),
    ];
    assert_eq!(items, expected.into_iter().map(|(name, end)| (name.to_owned(), end)).collect());
    let runs = fixture.service.runs.lock().unwrap();
    assert_eq!((runs["good-1"], runs["bad-1"], runs["once-1"], runs["retry-1"]), (1, 1, 2, 3));
    assert_eq!(events.try_recv().unwrap().topic, "job.partially_succeeded");
    let mut dead: Vec<_> = fixture.queue.peek_dead().into_iter().map(|(_, reason)| reason.code).collect();
    dead.sort();
    assert_eq!(dead, ["away", "bad", "item_deadline"]);
}

#[tokio::test]
async fn job_fails_without_inputs_or_with_a_listing_error() {
    let fixture = Fixture::new(&[&[], &[]]).await;
    fixture.send("empty", b"").await;
    let (record, items) = fixture.ended("empty").await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (JobState::Failed, "no_inputs"));
    assert!(items.is_empty());

    let fixture = Fixture::new(&[]).await;
    fixture.send("unlistable", b"").await;
    let (record, _) = fixture.ended("unlistable").await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (JobState::Failed, "unlistable"));
}

#[tokio::test]
async fn refused_message_is_dead_lettered_and_its_sender_notified() {
    let fixture = Fixture::new(&[&["good-1"]]).await;
    let mut events = fixture.queue.subscribe();
    fixture.send("not a name", b"").await;
    fixture.send("job", b"first").await;
    let _ = fixture.ended("job").await;
    let again = Fixture { stop: Stop::default(), ..fixture };
    again.send("job", b"second").await;
    again.send("other", b"").await;
    let _ = again.ended("other").await;
    let topics = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.topic).collect::<Vec<_>>();
    assert!(topics.contains(&"refused.bad_id".to_owned()), "{topics:?}");
    assert!(topics.contains(&"refused.idempotency_conflict".to_owned()), "{topics:?}");
    let dead: Vec<_> = again.queue.peek_dead().into_iter().map(|(_, reason)| reason.code).collect();
    assert_eq!(dead, ["bad_id", "idempotency_conflict"]);
}

/// A slow item occupies the only normal slot.
#[tokio::test]
async fn urgent_item_does_not_wait_for_normal_items() {
    let fixture = Fixture::new(&[&["slow-1", "urgent-1", "good-1"]]).await;
    fixture.send("job", b"").await;
    let mut worker = fixture.worker();
    worker.settings.items = 1;
    let worker = tokio::spawn(worker.run());
    let job = JobId::try_from("job".to_owned()).unwrap();
    let states = async || {
        let items = fixture.ledger.items(&job, None, 10).await.unwrap();
        items.iter().map(|item| item.state).collect::<Vec<_>>()
    };
    let expected = [ItemState::Running, ItemState::Succeeded, ItemState::Queued];
    for _ in 0..200 {
        if states().await == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(states().await, expected);
    fixture.stop.abort();
    worker.await.unwrap().unwrap();
}

/// The item finds no room five times, with a limit of three attempts.
#[tokio::test]
async fn waiting_for_room_is_no_attempt() {
    let fixture = Fixture::new(&[&["late-1"]]).await;
    fixture.send("job", b"").await;
    let (record, _) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::Succeeded);
    let item = fixture.ledger.items(&record.id, None, 10).await.unwrap().remove(0);
    assert_eq!((item.attempt, item.attempts(), item.released, item.worker_losses), (6, 1, 5, 0));
}
