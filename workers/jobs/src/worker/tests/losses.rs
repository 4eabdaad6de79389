//! Tests of workers that break or crash, and of what becomes of their items.

use super::*;

/// An item that breaks one worker after the other fails after the maximum number of worker losses.
#[tokio::test]
async fn item_that_breaks_workers_fails_after_the_limit() {
    let fixture = Fixture::new(&[&["broken-1"]]).await;
    fixture.send("job", b"").await;
    let mut broken = 0;
    let job = JobId::try_from("job".to_owned()).unwrap();
    let ended = async || fixture.ledger.job(&job).await.unwrap().is_some_and(|job| job.state.is_end());
    while !ended().await {
        let worker = Worker { stop: Stop::default(), ..fixture.worker() };
        let stop = worker.stop.clone();
        let worker = tokio::spawn(worker.run());
        while !worker.is_finished() && !ended().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.drain();
        broken += usize::from(worker.await.unwrap().is_err());
    }
    assert_eq!(broken, 4, "three losses are allowed");
    let item = fixture.ledger.items(&job, None, 10).await.unwrap().remove(0);
    assert_eq!((item.state, item.failure.unwrap().code.as_str()), (ItemState::Failed, "broken"));
}

#[tokio::test]
async fn broken_worker_stops_and_releases_its_items() {
    let fixture = Fixture::new(&[&["broken-1", "slow-1"]]).await;
    fixture.send("job", b"").await;
    let ended = tokio::time::timeout(Duration::from_secs(20), fixture.worker().run()).await.unwrap();
    assert_eq!(ended.unwrap_err().0.code, "broken");
    let job = JobId::try_from("job".to_owned()).unwrap();
    let items = fixture.ledger.items(&job, None, 10).await.unwrap();
    let attempts: Vec<_> = items.iter().map(|item| (item.state, item.attempts())).collect();
    assert_eq!(attempts, [(ItemState::Queued, 0), (ItemState::Queued, 0)]);
    // The item that broke the worker counts a worker loss, because it may break others; the other item does not.
    let lost: Vec<_> = items.iter().map(|item| (item.worker_losses, item.released)).collect();
    assert_eq!(lost, [(1, 0), (0, 1)]);
}

/// Another worker runs the items of a crashed worker after their leases; an item that crashes every worker fails.
#[tokio::test]
async fn items_of_crashed_workers_are_retried_or_failed() {
    let fixture = Fixture::new(&[&["good-1", "good-2", "good-3"]]).await;
    let job = JobId::try_from("job".to_owned()).unwrap();
    let (long_ago, lease) = (fixture.ledger.now().await.unwrap() - 10_000, Duration::from_millis(1));
    fixture
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
    let claim = fixture.ledger.claim_job(&job, "crashed", long_ago, lease).await.unwrap().unwrap();
    let names = ["good-1", "good-2", "good-3"].map(|name| ItemId::try_from(name.to_owned()).unwrap());
    let items = names.each_ref().map(|id| NewItem {
        id: id.clone(),
        queue: Lane::Items.into(),
        message: "good".into(),
    });
    assert!(fixture.ledger.add_items(&claim, &items, 0, long_ago).await.unwrap());
    assert!(fixture.ledger.finish_listing(&claim, long_ago).await.unwrap());
    for (n, crashes) in [(0, 3), (1, 4)] {
        for crash in 0..crashes {
            let then = long_ago + 10 * crash;
            let claimed =
                fixture.ledger.claim_item(&job, &names[n], "crashed", None, then, lease).await.unwrap();
            assert!(matches!(claimed, crate::ledger::ClaimOutcome::Claimed(_)), "{claimed:?}");
        }
    }
    // There is no message about any of them: the sweep finds them all.
    let (record, items) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    assert_eq!(items["good-1"], (ItemState::Succeeded, None));
    assert_eq!(items["good-2"], (ItemState::Failed, Some("workers_lost".into())));
    assert_eq!(items["good-3"], (ItemState::Succeeded, None));
}
