//! Tests of the event of a job's end: no crash loses it, and the end does not wait for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::queue::{Consumer, DeadLetter};

/// Observer that panics after a step, and so ends its worker.
struct PanicsAfter(&'static str);

impl<R> Observer<R> for PanicsAfter {
    fn step(&self, step: Step<'_>, _: Option<&JobId>, _: Option<&ItemId>) {
        assert!(!format!("{step:?}").starts_with(self.0), "panics after {}", self.0);
    }
}

/// Queue that refuses to publish the first `refusals` events.
struct RefusesEvents {
    queue: MemoryQueue,
    refusals: AtomicUsize,
}

#[async_trait]
impl Queue for RefusesEvents {
    fn system(&self) -> &'static str {
        self.queue.system()
    }

    fn name(&self) -> &str {
        self.queue.name()
    }

    async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError> {
        self.queue.send(to, message).await
    }

    async fn publish_event(&self, event: &Event) -> Result<(), QueueError> {
        let left = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Err(QueueError("refused".into()));
        }
        self.queue.publish_event(event).await
    }

    async fn consumer(&self, of: &Address) -> Box<dyn Consumer> {
        self.queue.consumer(of).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(limit).await
    }

    async fn waiting(&self, at: &Address) -> Result<u64, QueueError> {
        self.queue.waiting(at).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.check().await
    }
}

fn topics(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<String> {
    std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.topic).collect()
}

async fn until_all_are_published(fixture: &Fixture) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while fixture.ledger.outbox_pending().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the events are published");
}

#[tokio::test]
async fn crashed_worker_loses_no_event() {
    for (step, times) in [("ResultsGathered", 1), ("Finished", 1), ("EventPublished", 2)] {
        let fixture = Fixture::new(&[&["good-1"]]).await;
        let mut events = fixture.queue.subscribe();
        fixture.send("job", b"").await;
        let mut crashing = fixture.worker();
        crashing.observer = Arc::new(PanicsAfter(step));
        let ended = tokio::time::timeout(Duration::from_secs(20), crashing.run()).await.unwrap();
        assert!(ended.unwrap_err().0.message.contains(step), "it did not crash after {step}");

        let next = Fixture { stop: Stop::default(), ..fixture };
        let working = tokio::spawn(next.worker().run());
        let job = JobId::try_from("job".to_owned()).unwrap();
        while !next.ledger.job(&job).await.unwrap().unwrap().state.is_end() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until_all_are_published(&next).await;
        next.stop.drain();
        working.await.unwrap().unwrap();
        assert_eq!(topics(&mut events), vec!["job.succeeded"; times], "after {step}");
    }
}

/// A job ends although its event cannot be published; later events are published in order.
#[tokio::test]
async fn job_ends_while_its_event_waits_for_the_queue() {
    let fixture = Fixture::new(&[&["good-1"]]).await;
    let mut events = fixture.queue.subscribe();
    fixture.send("job", b"first").await;
    let refusing = Arc::new(RefusesEvents { queue: fixture.queue.clone(), refusals: AtomicUsize::new(3) });
    let mut worker = fixture.worker();
    worker.queue = refusing.clone();
    // Only the sweep retries, and not before the job has ended.
    worker.settings.sweep = Duration::from_millis(400);
    let working = tokio::spawn(worker.run());
    let job = JobId::try_from("job".to_owned()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while !fixture.ledger.job(&job).await.unwrap().is_some_and(|job| job.state.is_end()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the job ends");
    // Another request with the same id is refused because of this job, so its event comes after the job's end.
    fixture.send("job", b"second").await;
    until_all_are_published(&fixture).await;
    fixture.stop.drain();
    working.await.unwrap().unwrap();
    assert_eq!(refusing.refusals.load(Ordering::SeqCst), 0);
    assert_eq!(topics(&mut events), ["job.succeeded", "refused.idempotency_conflict"]);
}

/// A worker may crash between recording a failure and dead-lettering its message: the message is redelivered.
#[tokio::test]
async fn failed_item_is_dead_lettered_after_a_crash() {
    let fixture = Fixture::new(&[&["bad-1"]]).await;
    fixture.send("job", b"").await;
    let mut crashing = fixture.worker();
    crashing.observer = Arc::new(PanicsAfter("Ended"));
    // With one slot, this worker does not take the redelivered message.
    crashing.settings.items = 1;
    let ended = tokio::time::timeout(Duration::from_secs(20), crashing.run()).await.unwrap();
    assert!(ended.unwrap_err().0.message.contains("Ended"));
    assert!(fixture.queue.peek_dead().is_empty());

    let next = Fixture { stop: Stop::default(), ..fixture };
    let (record, _) = next.ended("job").await;
    assert_eq!(record.state, JobState::Failed);
    let dead: Vec<_> = next.queue.peek_dead().into_iter().map(|(m, reason)| (m.id, reason.code)).collect();
    assert_eq!(dead, [("job/bad-1".to_owned(), "bad".to_owned())]);
}
