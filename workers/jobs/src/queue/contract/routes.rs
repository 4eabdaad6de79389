//! Contract of routes: each has queues of its own, which its consumers create.

use super::*;
use crate::queue::Route;

/// Sends a message to a queue that the consumer of its route may still be creating.
pub(in crate::queue) async fn send_routed(queue: &dyn Queue, to: &Address, message: &Message) {
    soon(async {
        while queue.send(to, message).await.unwrap() == Sent::NoQueue {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Names of routes in these tests.
pub(in crate::queue) const ROUTES: [&str; 3] = ["here", "there *#", "no worker has it"];

pub(in crate::queue) fn routed(lane: Lane, name: &str) -> Address {
    Address { lane, route: Some(Route::new(name)) }
}

pub(in crate::queue) async fn routes_are_separate(backend: &impl Backend) {
    let queue = backend.queue();
    let [here, there, urgent] =
        [(Lane::Items, ROUTES[0]), (Lane::Items, ROUTES[1]), (Lane::Urgent, ROUTES[0])]
            .map(|(lane, name)| routed(lane, name));
    let mut consumers = Vec::new();
    for queue_of in [&here, &there, &urgent, &Lane::Items.into()] {
        let mut consumer = queue.consumer(queue_of).await;
        // The first call creates the queue.
        nothing_comes(&mut *consumer).await;
        consumers.push(consumer);
    }
    send_routed(&*queue, &here, &message("here")).await;
    let delivery = soon(consumers[0].next()).await;
    assert_eq!(delivery.message.id, "here");
    delivery.ack().await;
    for other in &mut consumers[1..] {
        nothing_comes(&mut **other).await;
    }
    // A route has both queues, whichever its workers consume.
    send_routed(&*queue, &routed(Lane::Urgent, ROUTES[1]), &message("there")).await;
}

pub(in crate::queue) async fn message_to_a_route_without_a_queue_is_not_sent(backend: &impl Backend) {
    let (queue, address) = (backend.queue(), routed(Lane::Items, ROUTES[2]));
    for _ in 0..3 {
        assert_eq!(soon(queue.send(&address, &message("lost"))).await.unwrap(), Sent::NoQueue);
    }
    assert!(soon(queue.waiting(&address)).await.is_err(), "it makes no queue");
    soon(queue.check()).await.unwrap();
    let mut consumer = queue.consumer(&address).await;
    nothing_comes(&mut *consumer).await;
    send_routed(&*queue, &address, &message("kept")).await;
    // The queue stays without its consumer.
    drop(consumer);
    soon(async {
        while queue.waiting(&address).await.unwrap() != 1 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut consumer = queue.consumer(&address).await;
    assert_eq!(soon(consumer.next()).await.message.id, "kept");
}

/// The message is retried, dropped, requeued and dead-lettered.
pub(in crate::queue) async fn routed_message_keeps_its_queue(backend: &impl Backend) {
    let (queue, address) = (backend.queue(), routed(Lane::Urgent, ROUTES[1]));
    let mut consumer = queue.consumer(&address).await;
    nothing_comes(&mut *consumer).await;
    send_routed(&*queue, &address, &message("a")).await;
    let delivery = soon(consumer.next()).await;
    soon(delivery.retry_after(Duration::from_millis(50))).await.unwrap();
    drop(soon(consumer.next()).await);
    soon(soon(consumer.next()).await.requeue()).await;
    let delivery = soon(consumer.next()).await;
    soon(delivery.dead_letter(&Failure::new("bad", "for a reason"))).await.unwrap();
    let letter = list_dead(&queue, 1, 1).await.pop().unwrap();
    assert_eq!((letter.lane, letter.delivery.message.id.as_str()), (Some(Lane::Urgent), "a"));
    soon(letter.delivery.ack()).await;
}
