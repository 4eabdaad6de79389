//! The news of a job's end: not lost with a worker, and not waited for.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::queue::{Consumer, DeadLetter};

/// Ends the task that has done a step right after it, and its worker with it.
struct DiesAfter(&'static str);

impl Observer for DiesAfter {
    fn step(&self, step: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {
        assert!(!format!("{step:?}").starts_with(self.0), "dies after {}", self.0);
    }
}

/// A queue that takes messages, and the first so many news not.
struct Deaf {
    queue: MemoryQueue,
    refusals: AtomicUsize,
}

#[async_trait]
impl Queue for Deaf {
    fn system(&self) -> &'static str {
        self.queue.system()
    }

    fn name(&self) -> &str {
        self.queue.name()
    }

    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        self.queue.send(lane, message).await
    }

    async fn announce(&self, event: &Event) -> Result<(), QueueError> {
        let left = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(QueueError("deaf".into()));
        }
        self.queue.announce(event).await
    }

    async fn consumer(&self, lane: Lane) -> Box<dyn Consumer> {
        self.queue.consumer(lane).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(limit).await
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        self.queue.waiting(lane).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.check().await
    }
}

fn told(news: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<String> {
    std::iter::from_fn(|| news.try_recv().ok()).map(|event| event.topic).collect()
}

async fn until_nothing_waits(bench: &Bench) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while bench.ledger.news_waiting().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the news are sent");
}

#[tokio::test]
async fn a_worker_that_dies_takes_no_news_with_it() {
    for (step, times) in [("ResultsGathered", 1), ("Finished", 1), ("Announced", 2)] {
        let bench = Bench::new(&[&["good-1"]]).await;
        let mut news = bench.queue.subscribe();
        bench.send("job", b"").await;
        let mut doomed = bench.worker();
        doomed.observer = Arc::new(DiesAfter(step));
        let ended = tokio::time::timeout(Duration::from_secs(20), doomed.run()).await.unwrap();
        assert!(ended.unwrap_err().0.message.contains(step), "it did not die of {step}");

        let heir = Bench { stop: Stop::default(), ..bench };
        let working = tokio::spawn(heir.worker().run());
        let job = JobId::try_from("job".to_owned()).unwrap();
        while !heir.ledger.job(&job).await.unwrap().unwrap().state.is_end() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until_nothing_waits(&heir).await;
        heir.stop.drain();
        working.await.unwrap().unwrap();
        assert_eq!(told(&mut news), vec!["job.succeeded"; times], "after {step}");
    }
}

/// A job ends although nobody can be told, and whoever asks again is told later, in order.
#[tokio::test]
async fn news_wait_for_the_queue_and_the_job_does_not() {
    let bench = Bench::new(&[&["good-1"]]).await;
    let mut news = bench.queue.subscribe();
    bench.send("job", b"first").await;
    let deaf = Arc::new(Deaf { queue: bench.queue.clone(), refusals: AtomicUsize::new(3) });
    let mut worker = bench.worker();
    worker.queue = deaf.clone();
    // The sweep is all that tries again, and not before the job has ended.
    worker.settings.sweep = Duration::from_millis(400);
    let working = tokio::spawn(worker.run());
    let job = JobId::try_from("job".to_owned()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while !bench.ledger.job(&job).await.unwrap().is_some_and(|job| job.state.is_end()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the job ends");
    // Another request under the name of this one: refused because of it, so its news come after its end.
    bench.send("job", b"second").await;
    until_nothing_waits(&bench).await;
    bench.stop.drain();
    working.await.unwrap().unwrap();
    assert_eq!(deaf.refusals.load(Ordering::SeqCst), 0);
    assert_eq!(told(&mut news), ["job.succeeded", "refused.idempotency_conflict"]);
}

/// Whoever entered a failure in the ledger may have died before it became a dead letter: its message comes again.
#[tokio::test]
async fn a_failed_item_is_a_dead_letter_whoever_dies() {
    let bench = Bench::new(&[&["bad-1"]]).await;
    bench.send("job", b"").await;
    let mut doomed = bench.worker();
    doomed.observer = Arc::new(DiesAfter("Ended"));
    // Nothing else of it takes the message when it comes back.
    doomed.settings.items = 1;
    let ended = tokio::time::timeout(Duration::from_secs(20), doomed.run()).await.unwrap();
    assert!(ended.unwrap_err().0.message.contains("Ended"));
    assert!(bench.queue.peek_dead().is_empty());

    let heir = Bench { stop: Stop::default(), ..bench };
    let (record, _) = heir.ended("job").await;
    assert_eq!(record.state, JobState::Failed);
    let dead: Vec<_> = heir.queue.peek_dead().into_iter().map(|(m, why)| (m.id, why.code)).collect();
    assert_eq!(dead, [("job/bad-1".to_owned(), "bad".to_owned())]);
}
