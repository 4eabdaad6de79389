//! The loop on the backends that need no server, with a service that does what its items say.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::job::{ItemState, SecretUrl};
use crate::ledger::LedgerSettings;
use crate::queue::MemoryQueue;

mod outbox;

/// Items are called `good-1`, `retry-2` and so on: what stands before the dash is what happens to them.
struct Scripted {
    items: Vec<Vec<&'static str>>,
    reports: Mutex<HashMap<String, ItemEnd>>,
    runs: Mutex<HashMap<String, usize>>,
}

struct Unwatched;

impl Observer for Unwatched {
    fn step(&self, _: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {}
}

fn why(code: &str) -> Failure {
    Failure::new(code, format!("it is {code}"))
}

fn event(topic: &str, id: &str) -> Event {
    Event { topic: topic.into(), message: Message::new(id.into(), "event/1", "") }
}

#[async_trait]
impl Service for Scripted {
    type Report = ();

    const JOB_KIND: &'static str = "job/1";
    const ITEM_KIND: &'static str = "item/1";

    fn job(&self, message: &Message) -> Result<NewJob, Refusal> {
        let id = JobId::try_from(message.id.clone()).map_err(Refusal::Hopeless)?;
        let message = String::from_utf8(message.body.to_vec()).map_err(|_| Refusal::Newer(why("newer")))?;
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

    fn item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal> {
        let (job, item) = message.id.split_once('/').ok_or(Refusal::Hopeless(why("nameless")))?;
        Ok((JobId::try_from(job.to_owned()).unwrap(), ItemId::try_from(item.to_owned()).unwrap()))
    }

    async fn expand(&self, _: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble> {
        let at: usize = cursor.map_or(0, |text| text.parse().unwrap());
        let Some(names) = self.items.get(at) else { return Err(Trouble::Fatal(why("unlistable"))) };
        let item = |name: &&str| NewItem {
            id: ItemId::try_from((*name).to_owned()).unwrap(),
            message: (*name).into(),
        };
        let next = (at + 1 < self.items.len()).then(|| (at + 1).to_string());
        Ok(Page { items: names.iter().map(item).collect(), next })
    }

    fn is_urgent(&self, item: &str) -> bool {
        item.starts_with("urgent")
    }

    async fn written(&self, item: &ItemClaim) -> Result<Option<ItemEnd>, Trouble> {
        Ok(self.reports.lock().unwrap().get(item.item.as_str()).cloned())
    }

    async fn run(&self, item: &ItemClaim, running: &Running) -> Outcome<()> {
        let runs = {
            let mut runs = self.runs.lock().unwrap();
            let runs = runs.entry(item.item.to_string()).or_default();
            *runs += 1;
            *runs
        };
        match item.item.as_str().split_once('-').unwrap().0 {
            "good" | "urgent" => Outcome::Done(()),
            "bad" => Outcome::Reject(why("bad")),
            "once" if runs == 1 => Outcome::Retry { after: None, why: why("away") },
            "once" => Outcome::Done(()),
            "retry" => Outcome::Retry { after: None, why: why("away") },
            "broken" => Outcome::Unfit(why("broken")),
            "late" if runs <= 5 => Outcome::Later(why("no_room")),
            "late" => Outcome::Done(()),
            "slow" => {
                running.stop.cancelled().await;
                Outcome::Cancelled
            }
            other => panic!("no script for {other}"),
        }
    }

    async fn write(&self, item: &ItemClaim, result: Result<&(), &Failure>) -> Result<ItemEnd, Trouble> {
        let end = result.map_or_else(|why| ItemEnd::Failed(why.clone()), |()| ItemEnd::Succeeded);
        Ok(self.reports.lock().unwrap().entry(item.item.to_string()).or_insert(end).clone())
    }

    async fn finalize(&self, _: &EndedJob) -> Result<(), Trouble> {
        Ok(())
    }

    fn ended(&self, ended: &EndedJob) -> Event {
        event(&format!("job.{}", ended.end.state().as_str()), ended.record.id.as_str())
    }

    fn refused(&self, message: &Message, why: &Failure) -> Event {
        event(&format!("refused.{}", why.code), &message.id)
    }
}

struct Bench {
    queue: MemoryQueue,
    ledger: Ledger,
    service: Arc<Scripted>,
    stop: Stop,
}

impl Bench {
    async fn new(items: &[&[&'static str]]) -> Self {
        let url = SecretUrl::new("sqlite::memory:");
        let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        ledger.migrate().await.unwrap();
        let items = items.iter().map(|page| page.to_vec()).collect();
        let service = Scripted { items, reports: Mutex::default(), runs: Mutex::default() };
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
                items: 2,
                lease: ms(500),
                heartbeat: ms(100),
                deadline: ms(700),
                grace: ms(200),
                urgent: 1,
                attempts: 3,
                losses: 3,
                backoff: Backoff { first: ms(5), most: ms(20) },
                patience: ms(100),
                sweep: ms(50),
                forgotten: ms(200),
            },
            observer: Arc::new(Unwatched),
            stop: self.stop.clone(),
        }
    }

    async fn send(&self, id: &str, body: &'static [u8]) {
        let message = Message::new(id.into(), "job/1", body);
        self.queue.send(Lane::Jobs, &message).await.unwrap();
    }

    /// Works until the job has ended; its states and those of its items.
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
            let code = item.failure.filter(|_| item.state == ItemState::Failed).map(|why| why.code);
            (item.id.to_string(), (item.state, code))
        };
        (record, items.into_iter().map(of).collect())
    }
}

#[tokio::test]
async fn every_item_has_the_end_that_it_deserves() {
    let bench = Bench::new(&[&["good-1", "bad-1"], &[], &["once-1", "retry-1", "slow-1"]]).await;
    let mut news = bench.queue.subscribe();
    bench.send("job", b"").await;
    let (record, items) = bench.ended("job").await;
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
    let runs = bench.service.runs.lock().unwrap();
    assert_eq!((runs["good-1"], runs["bad-1"], runs["once-1"], runs["retry-1"]), (1, 1, 2, 3));
    assert_eq!(news.try_recv().unwrap().topic, "job.partially_succeeded");
    let mut dead: Vec<_> = bench.queue.peek_dead().into_iter().map(|(_, why)| why.code).collect();
    dead.sort();
    assert_eq!(dead, ["away", "bad", "item_deadline"]);
}

#[tokio::test]
async fn a_job_without_inputs_and_one_that_cannot_be_listed() {
    let bench = Bench::new(&[&[], &[]]).await;
    bench.send("empty", b"").await;
    let (record, items) = bench.ended("empty").await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (JobState::Failed, "no_inputs"));
    assert!(items.is_empty());

    let bench = Bench::new(&[]).await;
    bench.send("unlistable", b"").await;
    let (record, _) = bench.ended("unlistable").await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (JobState::Failed, "unlistable"));
}

#[tokio::test]
async fn what_cannot_be_taken_is_a_dead_letter_and_its_sender_is_told() {
    let bench = Bench::new(&[&["good-1"]]).await;
    let mut news = bench.queue.subscribe();
    bench.send("not a name", b"").await;
    bench.send("job", b"first").await;
    let _ = bench.ended("job").await;
    let again = Bench { stop: Stop::default(), ..bench };
    again.send("job", b"second").await;
    again.send("other", b"").await;
    let _ = again.ended("other").await;
    let told = std::iter::from_fn(|| news.try_recv().ok()).map(|event| event.topic).collect::<Vec<_>>();
    assert!(told.contains(&"refused.bad_id".to_owned()), "{told:?}");
    assert!(told.contains(&"refused.idempotency_conflict".to_owned()), "{told:?}");
    let dead: Vec<_> = again.queue.peek_dead().into_iter().map(|(_, why)| why.code).collect();
    assert_eq!(dead, ["bad_id", "idempotency_conflict"]);
}

/// The only slot for items is taken for as long as the worker lives.
#[tokio::test]
async fn an_urgent_item_waits_for_no_other() {
    let bench = Bench::new(&[&["slow-1", "urgent-1", "good-1"]]).await;
    bench.send("job", b"").await;
    let mut worker = bench.worker();
    worker.settings.items = 1;
    let worker = tokio::spawn(worker.run());
    let job = JobId::try_from("job".to_owned()).unwrap();
    let states = async || {
        let items = bench.ledger.items(&job, None, 10).await.unwrap();
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
    bench.stop.abort();
    worker.await.unwrap().unwrap();
}

/// Five times there is no room for it, and three attempts are all it has.
#[tokio::test]
async fn waiting_for_room_is_no_attempt() {
    let bench = Bench::new(&[&["late-1"]]).await;
    bench.send("job", b"").await;
    let (record, _) = bench.ended("job").await;
    assert_eq!(record.state, JobState::Succeeded);
    let item = bench.ledger.items(&record.id, None, 10).await.unwrap().remove(0);
    assert_eq!((item.attempt, item.attempts(), item.given_back, item.lost), (6, 1, 5, 0));
}

/// What breaks one worker after the other is given up after so many as may be lost over an item.
#[tokio::test]
async fn what_breaks_every_worker_does_not_break_them_for_ever() {
    let bench = Bench::new(&[&["broken-1"]]).await;
    bench.send("job", b"").await;
    let mut broken = 0;
    let job = JobId::try_from("job".to_owned()).unwrap();
    let ended = async || bench.ledger.job(&job).await.unwrap().is_some_and(|job| job.state.is_end());
    while !ended().await {
        let worker = Worker { stop: Stop::default(), ..bench.worker() };
        let stop = worker.stop.clone();
        let worker = tokio::spawn(worker.run());
        while !worker.is_finished() && !ended().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.drain();
        broken += usize::from(worker.await.unwrap().is_err());
    }
    assert_eq!(broken, 4, "three may be lost");
    let item = bench.ledger.items(&job, None, 10).await.unwrap().remove(0);
    assert_eq!((item.state, item.failure.unwrap().code.as_str()), (ItemState::Failed, "broken"));
}

#[tokio::test]
async fn a_broken_worker_ends_and_gives_everything_back() {
    let bench = Bench::new(&[&["broken-1", "slow-1"]]).await;
    bench.send("job", b"").await;
    let ended = tokio::time::timeout(Duration::from_secs(20), bench.worker().run()).await.unwrap();
    assert_eq!(ended.unwrap_err().0.code, "broken");
    let job = JobId::try_from("job".to_owned()).unwrap();
    let items = bench.ledger.items(&job, None, 10).await.unwrap();
    let attempts: Vec<_> = items.iter().map(|item| (item.state, item.attempts())).collect();
    assert_eq!(attempts, [(ItemState::Queued, 0), (ItemState::Queued, 0)]);
    // What broke it has cost a worker, for it might break every one; what it had beside that has not.
    let lost: Vec<_> = items.iter().map(|item| (item.lost, item.given_back)).collect();
    assert_eq!(lost, [(1, 0), (0, 1)]);
}

/// What a worker held that died is done by another when its lease is over; what kills every worker is given up.
#[tokio::test]
async fn what_dead_workers_held() {
    let bench = Bench::new(&[&["good-1", "good-2", "good-3"]]).await;
    let job = JobId::try_from("job".to_owned()).unwrap();
    let (long_ago, lease) = (crate::job::now() - 10_000, Duration::from_millis(1));
    bench
        .ledger
        .accept(
            &NewJob {
                id: job.clone(),
                key: "job".into(),
                request_sha256: "".into(),
                message: "".into(),
                not_before: None,
                deadline: None,
                trace: TraceContext::default(),
            },
            long_ago,
        )
        .await
        .unwrap();
    let claim = bench.ledger.claim_job(&job, "dead", long_ago, lease).await.unwrap().unwrap();
    let names = ["good-1", "good-2", "good-3"].map(|name| ItemId::try_from(name.to_owned()).unwrap());
    let items = names.each_ref().map(|id| NewItem { id: id.clone(), message: String::new() });
    assert!(bench.ledger.add_items(&claim, &items, 0, long_ago).await.unwrap());
    assert!(bench.ledger.expanded(&claim, long_ago).await.unwrap());
    for (n, deaths) in [(0, 3), (1, 4)] {
        for death in 0..deaths {
            let then = long_ago + 10 * death;
            let claimed = bench.ledger.claim_item(&job, &names[n], "dead", then, lease).await.unwrap();
            assert!(matches!(claimed, crate::ledger::ClaimedItem::Yes(_)), "{claimed:?}");
        }
    }
    // No message tells about any of them: the sweep finds them all.
    let (record, items) = bench.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    assert_eq!(items["good-1"], (ItemState::Succeeded, None));
    assert_eq!(items["good-2"], (ItemState::Failed, Some("workers_lost".into())));
    assert_eq!(items["good-3"], (ItemState::Succeeded, None));
}
