//! Tests of stores that never take a result, and of stopping while a step is retried.

use std::time::Instant;

use super::*;
use crate::queue::{DeadLetter, Sent};

/// Time of tests in which a step is retried, far beyond the grace.
const RETRIED_FOR: Duration = Duration::from_secs(60);

fn job() -> JobId {
    JobId::try_from("job".to_owned()).unwrap()
}

#[tokio::test]
async fn report_that_no_store_takes_fails_its_item() {
    let fixture = Fixture::new(&[&["unwritable-1", "good-1"]]).await;
    fixture.send("job", b"").await;
    let (record, items) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    assert_eq!(items["unwritable-1"], (ItemState::Failed, Some("bad_url".into())));
    assert_eq!(items["good-1"], (ItemState::Succeeded, None));
    assert_eq!(fixture.service.runs.lock().unwrap()["unwritable-1"], 1, "it is not run again");
}

#[tokio::test]
async fn job_whose_results_no_store_takes_fails() {
    let fixture = Fixture::new(&[&["good-1"]]).await;
    let mut events = fixture.queue.subscribe();
    fixture.send("unwritable", b"").await;
    let (record, items) = fixture.ended("unwritable").await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (JobState::Failed, "bad_url"));
    assert_eq!(items["good-1"], (ItemState::Succeeded, None));
    assert_eq!(events.try_recv().unwrap().topic, "job.failed");
}

/// Runs a worker that retries for a minute, stops it when `until` holds, and returns the time to its end.
async fn stopped(fixture: &Fixture, until: impl AsyncFn() -> bool) -> Duration {
    let mut worker = fixture.worker();
    worker.settings.retry_timeout = RETRIED_FOR;
    let working = tokio::spawn(worker.run());
    while !until().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    fixture.stop.drain();
    working.await.unwrap().unwrap();
    begun.elapsed()
}

#[tokio::test]
async fn grace_holds_while_a_report_is_written_again_and_again() {
    let fixture = Fixture::new(&[&["unstored-1"]]).await;
    fixture.send("job", b"").await;
    let took =
        stopped(&fixture, async || fixture.service.runs.lock().unwrap().contains_key("unstored-1")).await;
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&took), "{took:?}");
    let item = fixture.ledger.items(&job(), None, 10).await.unwrap().remove(0);
    assert_eq!((item.state, item.released, item.attempts()), (ItemState::Queued, 1, 0));
}

#[tokio::test]
async fn grace_holds_while_results_are_written_again_and_again() {
    let fixture = Fixture::new(&[&["good-1"]]).await;
    fixture.send("unstored", b"").await;
    let id = JobId::try_from("unstored".to_owned()).unwrap();
    let state = async || fixture.ledger.job(&id).await.unwrap().map(|job| job.state);
    let took = stopped(&fixture, async || state().await == Some(JobState::Finalizing)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(fixture.ledger.job(&id).await.unwrap().unwrap().lease_until, None, "the claim is released");
}

/// Queue that loses every answer: a call never returns.
struct Silent(MemoryQueue);

#[async_trait]
impl Queue for Silent {
    fn system(&self) -> &'static str {
        self.0.system()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError> {
        match to.lane {
            Lane::Jobs => self.0.send(to, message).await,
            Lane::Items | Lane::Urgent => std::future::pending().await,
        }
    }

    async fn publish_event(&self, _: &Event) -> Result<(), QueueError> {
        std::future::pending().await
    }

    async fn consumer(&self, from: &Address) -> Box<dyn Consumer> {
        self.0.consumer(from).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.0.dead_letters(limit).await
    }

    async fn waiting(&self, at: &Address) -> Result<u64, QueueError> {
        self.0.waiting(at).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.0.check().await
    }
}

#[tokio::test]
async fn grace_holds_while_the_queue_is_silent() {
    for (id, items, expected) in [
        // The messages about the items are not confirmed.
        ("job", &["good-1"][..], JobState::Validating),
        // The event of the refused message is not confirmed, and the job never begins.
        ("not a name", &[][..], JobState::Accepted),
    ] {
        let fixture = Fixture::new(&[items]).await;
        fixture.send(id, b"").await;
        let worker = Worker { queue: Arc::new(Silent(fixture.queue.clone())), ..fixture.worker() };
        let working = tokio::spawn(worker.run());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        fixture.stop.drain();
        working.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_millis(200) + RELEASE_TIMEOUT + Duration::from_secs(2));
        if let Ok(id) = JobId::try_from(id.to_owned()) {
            assert_eq!(fixture.ledger.job(&id).await.unwrap().unwrap().state, expected);
        }
    }
}
