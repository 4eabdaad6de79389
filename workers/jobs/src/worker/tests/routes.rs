//! Tests of routes: items that only some workers can run.

use super::*;
use crate::message::item_message;

fn job() -> JobId {
    JobId::try_from("job".to_owned()).unwrap()
}

impl Fixture {
    /// Returns a worker with a route and its own shutdown.
    fn worker_of(&self, name: &str, route: &str) -> Worker<Scripted> {
        let worker = self.worker();
        let settings =
            WorkerSettings { name: name.into(), route: Some(Route::new(route)), ..worker.settings.clone() };
        Worker { settings, stop: Stop::default(), ..worker }
    }

    /// Waits until items have these states, in order.
    async fn until_states(&self, expected: &[ItemState]) {
        let states = async || {
            let items = self.ledger.items(&job(), None, 10).await.unwrap();
            items.iter().map(|item| item.state).collect::<Vec<_>>()
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), async {
            while states().await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?}", states().await);
    }

    async fn unserved(&self) -> Vec<(Route, u64)> {
        let now = self.ledger.now().await.unwrap();
        let unserved = self.ledger.unserved_routes(&job(), now).await.unwrap();
        unserved.into_iter().map(|unserved| (unserved.route, unserved.items)).collect()
    }
}

#[tokio::test]
async fn item_waits_for_a_worker_with_its_route() {
    use ItemState::{Queued, Succeeded};
    let fixture = Fixture::new(&[&["good-1", "good-2.x", "urgent-3.y", "good-4.y"]]).await;
    fixture.send("job", b"").await;
    let first = fixture.worker_of("first", "x");
    let (stop, sweep) = (first.stop.clone(), first.settings.sweep);
    let first = tokio::spawn(first.run());
    fixture.until_states(&[Succeeded, Succeeded, Queued, Queued]).await;
    // Messages in the queue of all workers, as a build without routes sends them.
    for item in ["urgent-3.y", "good-4.y"].map(|name| ItemId::try_from(name.to_owned()).unwrap()) {
        let message = item_message("item/2", &job(), &item, Lane::Items, &TraceContext::default());
        assert_eq!(fixture.queue.send(&Lane::Items.into(), &message).await.unwrap(), Sent::Confirmed);
    }
    tokio::time::sleep(6 * sweep).await;
    fixture.until_states(&[Succeeded, Succeeded, Queued, Queued]).await;
    assert_eq!(fixture.queue.waiting(&Lane::Items.into()).await.unwrap(), 0);
    let missing = Address { lane: Lane::Items, route: Some(Route::new("y")) };
    assert!(fixture.queue.waiting(&missing).await.is_err(), "a sender makes no queue");
    assert_eq!(fixture.unserved().await, [(Route::new("y"), 2)]);

    let second = fixture.worker_of("second", "y");
    let stop_second = second.stop.clone();
    let second = tokio::spawn(second.run());
    fixture.until_states(&[Succeeded; 4]).await;
    stop.drain();
    stop_second.drain();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let items = fixture.ledger.items(&job(), None, 10).await.unwrap();
    assert!(items.iter().all(|item| (item.attempt, item.attempts()) == (1, 1)), "{items:?}");
    assert!(fixture.queue.peek_dead().is_empty());
}

/// A message that waits in the queue of the route is not sent again, whatever other queues hold.
#[tokio::test]
async fn sweep_finds_lost_messages_of_its_route() {
    let fixture = Fixture::new(&[&["good-1.x"]]).await;
    fixture.send("job", b"").await;
    let other = fixture.worker_of("other", "y");
    let stop = other.stop.clone();
    let other = tokio::spawn(other.run());
    fixture.until_states(&[ItemState::Queued]).await;
    // A queue of the route that has lost the message.
    let queue = Address { lane: Lane::Items, route: Some(Route::new("x")) };
    drop(fixture.queue.consumer(&queue).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fixture.queue.waiting(&queue).await.unwrap(), 0, "only a worker with the route sends it");
    let own = fixture.worker_of("own", "x");
    let stop_own = own.stop.clone();
    let own = tokio::spawn(own.run());
    fixture.until_states(&[ItemState::Succeeded]).await;
    stop.drain();
    stop_own.drain();
    other.await.unwrap().unwrap();
    own.await.unwrap().unwrap();
    assert_eq!(fixture.unserved().await, []);
}
