//! Contract suite that every queue backend must pass.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::{Address, Consumer, Event, Lane, Message, Queue, Sent, Settled};
use crate::Failure;
use crate::trace::TraceContext;

mod dead_letters;
mod memory;
mod routes;

pub(super) use dead_letters::dead_letters_can_be_listed_and_dropped;
use dead_letters::list_dead;
pub(super) use routes::{
    ROUTES, message_to_a_route_without_a_queue_is_not_sent, routed, routed_message_keeps_its_queue,
    routes_are_separate, send_routed,
};

/// Delivery limit of every backend under test.
pub(super) const DELIVERY_LIMIT: u32 = 2;

/// Queue under test, with access to its dead letters and reply queues.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    fn queue(&self) -> Arc<dyn Queue>;
    /// Returns every dead letter so far.
    async fn dead(&self) -> Vec<(Message, Failure)>;
    /// Creates a reply queue.
    async fn reply_queue(&self, name: &str) -> UnboundedReceiver<Message>;
    /// Returns a name that no other test uses.
    fn unique(&self, name: &str) -> String;
    /// Deletes everything that the test created.
    async fn close(self);
}

/// Runs each behaviour as a test of its own on the backend that `$open` returns.
macro_rules! every_behaviour {
    ($open:path $(, #[$attribute:meta])?) => {
        $crate::queue::contract::every_behaviour! {
            @each $open, [$(#[$attribute])?],
            sends_delivers_and_acknowledges
            lanes_are_separate
            routes_are_separate
            message_to_a_route_without_a_queue_is_not_sent
            routed_message_keeps_its_queue
            holds_a_message_until_it_is_settled
            dropped_delivery_is_redelivered_and_counted
            dropped_consumer_requeues
            retry_after_delays_the_message
            requeued_message_is_redelivered
            dead_letter_keeps_its_reason
            message_over_the_delivery_limit_is_dead
            dead_letters_can_be_listed_and_dropped
            consumers_share_a_lane
            dropping_next_loses_no_message
            waiting_counts_undelivered_messages
            publishing_needs_no_subscriber
            event_reaches_its_reply_queue
            long_ids_round_trip
            trace_survives_every_way_of_settling
        }
    };
    (@each $open:path, $attributes:tt, $($behaviour:ident)*) => {
        $($crate::queue::contract::every_behaviour! { @one $open, $attributes, $behaviour })*
    };
    (@one $open:path, [$(#[$attribute:meta])?], $behaviour:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])?
        async fn $behaviour() {
            let backend = $open().await;
            $crate::queue::contract::$behaviour(&backend).await;
            $crate::queue::contract::Backend::close(backend).await;
        }
    };
}
pub(super) use every_behaviour;

/// Bounds a future, so that a test fails instead of hanging.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(15), future).await.expect("it takes longer than 15 s")
}

pub(super) fn message(id: &str) -> Message {
    Message {
        id: id.to_owned(),
        kind: "test.item/1".to_owned(),
        body: Bytes::from(format!(r#"{{"id":"{id}"}}"#)),
        reply_to: None,
        correlation_id: None,
        trace: TraceContext::default(),
    }
}

pub(super) fn trace() -> TraceContext {
    let trace = TraceContext::parse(
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        Some("vendor=value"),
    );
    assert_ne!(trace, TraceContext::default());
    trace
}

async fn send(backend: &impl Backend, id: &str) {
    send_to(&*backend.queue(), Lane::Items, &message(id)).await;
}

/// Sends a message to a queue that exists.
pub(super) async fn send_to(queue: &dyn Queue, to: impl Into<Address>, message: &Message) {
    assert_eq!(soon(queue.send(&to.into(), message)).await.unwrap(), Sent::Confirmed);
}

async fn consumer(backend: &impl Backend) -> Box<dyn Consumer> {
    backend.queue().consumer(&Lane::Items.into()).await
}

async fn nothing_comes(consumer: &mut dyn Consumer) {
    let came = timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(came.is_err(), "{:?} came", came.map(|delivery| delivery.message));
}

/// Waits for the count: a broker's counters lag a little.
async fn until_waiting(backend: &impl Backend, expected: u64) {
    let queue = backend.queue();
    soon(async {
        while queue.waiting(&Lane::Items.into()).await.unwrap() != expected {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn until_dead(backend: &impl Backend, id: &str) -> Failure {
    soon(async {
        loop {
            if let Some((_, reason)) = backend.dead().await.into_iter().find(|(dead, _)| dead.id == id) {
                return reason;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub(super) async fn sends_delivers_and_acknowledges(backend: &impl Backend) {
    let sent = Message {
        reply_to: Some("replies".to_owned()),
        correlation_id: Some("correlation".to_owned()),
        ..message("a")
    };
    soon(backend.queue().check()).await.unwrap();
    send_to(&*backend.queue(), Lane::Items, &sent).await;
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!((&delivery.message, delivery.redeliveries), (&sent, 0));
    assert_eq!(soon(delivery.ack()).await, Settled::Confirmed);
    nothing_comes(&mut *consumer).await;
    until_waiting(backend, 0).await;
}

pub(super) async fn lanes_are_separate(backend: &impl Backend) {
    let queue = backend.queue();
    send_to(&*queue, Lane::Jobs, &message("job")).await;
    let mut items = queue.consumer(&Lane::Items.into()).await;
    nothing_comes(&mut *items).await;
    let mut jobs = queue.consumer(&Lane::Jobs.into()).await;
    let delivery = soon(jobs.next()).await;
    assert_eq!(delivery.message.id, "job");
    delivery.ack().await;
}

pub(super) async fn holds_a_message_until_it_is_settled(backend: &impl Backend) {
    send(backend, "a").await;
    let (mut holder, mut other) = (consumer(backend).await, consumer(backend).await);
    let held = soon(holder.next()).await;
    nothing_comes(&mut *other).await;
    assert_eq!(soon(held.ack()).await, Settled::Confirmed);
    nothing_comes(&mut *other).await;
}

pub(super) async fn dropped_delivery_is_redelivered_and_counted(backend: &impl Backend) {
    send(backend, "a").await;
    let mut consumer = consumer(backend).await;
    for expected in 0..=DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await;
        assert_eq!((delivery.message.id.as_str(), delivery.redeliveries), ("a", expected));
        drop(delivery);
    }
}

pub(super) async fn dropped_consumer_requeues(backend: &impl Backend) {
    send(backend, "a").await;
    let mut first = consumer(backend).await;
    let held = soon(first.next()).await;
    drop(first);
    let mut second = consumer(backend).await;
    let again = soon(second.next()).await;
    assert_eq!((again.message.id.as_str(), again.redeliveries), ("a", 1));
    assert_eq!(soon(held.ack()).await, Settled::Lost);
    assert_eq!(soon(again.ack()).await, Settled::Confirmed);
    nothing_comes(&mut *second).await;
}

pub(super) async fn retry_after_delays_the_message(backend: &impl Backend) {
    let mut consumer = consumer(backend).await;
    for after in [150, 700].map(Duration::from_millis) {
        send(backend, "a").await;
        let delivery = soon(consumer.next()).await;
        let since = Instant::now();
        assert_eq!(soon(delivery.retry_after(after)).await.unwrap(), Settled::Confirmed);
        let again = soon(consumer.next()).await;
        assert!(since.elapsed() >= after, "{:?} is before {after:?}", since.elapsed());
        assert_eq!((&again.message, again.redeliveries), (&message("a"), 0));
        assert_eq!(soon(again.ack()).await, Settled::Confirmed);
    }
}

pub(super) async fn requeued_message_is_redelivered(backend: &impl Backend) {
    send(backend, "a").await;
    let (mut first, mut second) = (consumer(backend).await, consumer(backend).await);
    let delivery = soon(first.next()).await;
    assert_eq!(soon(delivery.requeue()).await, Settled::Confirmed);
    let again = soon(async {
        tokio::select! {
            delivery = first.next() => delivery,
            delivery = second.next() => delivery,
        }
    })
    .await;
    assert_eq!(again.message.id, "a");
    soon(again.ack()).await;
}

pub(super) async fn dead_letter_keeps_its_reason(backend: &impl Backend) {
    send(backend, "a").await;
    let mut consumer = consumer(backend).await;
    let reason = Failure::new("no_video", "the file has no video stream");
    let delivery = soon(consumer.next()).await;
    assert_eq!(soon(delivery.dead_letter(&reason)).await.unwrap(), Settled::Confirmed);
    assert_eq!(until_dead(backend, "a").await, reason);
    nothing_comes(&mut *consumer).await;
}

pub(super) async fn message_over_the_delivery_limit_is_dead(backend: &impl Backend) {
    send(backend, "poison").await;
    let mut consumer = consumer(backend).await;
    for _ in 0..=DELIVERY_LIMIT {
        drop(soon(consumer.next()).await);
    }
    assert_eq!(until_dead(backend, "poison").await.code, "delivery_limit");
    nothing_comes(&mut *consumer).await;
}

pub(super) async fn consumers_share_a_lane(backend: &impl Backend) {
    const EACH: usize = 3;
    let mut consumers = Vec::new();
    for _ in 0..4 {
        consumers.push(consumer(backend).await);
    }
    for number in 0..consumers.len() * EACH {
        send(backend, &number.to_string()).await;
    }
    let mut received = BTreeSet::new();
    for _ in 0..EACH {
        let held = soon(futures_util::future::join_all(consumers.iter_mut().map(|one| one.next()))).await;
        for delivery in held {
            assert!(received.insert(delivery.message.id.clone()), "{} came twice", delivery.message.id);
            soon(delivery.ack()).await;
        }
    }
    assert_eq!(received.len(), consumers.len() * EACH);
}

pub(super) async fn dropping_next_loses_no_message(backend: &impl Backend) {
    const MESSAGES: usize = 40;
    let queue = backend.queue();
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            send_to(&*queue, Lane::Items, &message(&number.to_string())).await;
            sleep(Duration::from_millis(2)).await;
        }
    });
    let mut consumer = consumer(backend).await;
    let mut received = Vec::new();
    soon(async {
        for round in 0.. {
            let wait = Duration::from_micros(round % 7 * 300);
            let Ok(delivery) = timeout(wait, consumer.next()).await else { continue };
            assert_eq!(delivery.redeliveries, 0);
            received.push(delivery.message.id.clone());
            delivery.ack().await;
            if received.len() == MESSAGES {
                break;
            }
        }
    })
    .await;
    sending.await.unwrap();
    nothing_comes(&mut *consumer).await;
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(received, expected);
}

pub(super) async fn waiting_counts_undelivered_messages(backend: &impl Backend) {
    until_waiting(backend, 0).await;
    for id in ["a", "b", "c"] {
        send(backend, id).await;
    }
    until_waiting(backend, 3).await;
    let mut consumer = consumer(backend).await;
    let held = soon(consumer.next()).await;
    until_waiting(backend, 2).await;
    drop(held);
}

pub(super) async fn publishing_needs_no_subscriber(backend: &impl Backend) {
    for reply_to in [None, Some("missing".to_owned()), Some("n".repeat(300))] {
        let event =
            Event { topic: "job.succeeded".to_owned(), message: Message { reply_to, ..message("a") } };
        soon(backend.queue().publish_event(&event)).await.unwrap();
    }
}

pub(super) async fn event_reaches_its_reply_queue(backend: &impl Backend) {
    let name = backend.unique("replies");
    let mut replies = backend.reply_queue(&name).await;
    let reply =
        Message { reply_to: Some(name), correlation_id: Some("correlation".to_owned()), ..message("a") };
    let event = Event { topic: "job.succeeded".to_owned(), message: reply.clone() };
    soon(backend.queue().publish_event(&event)).await.unwrap();
    assert_eq!(soon(replies.recv()).await, Some(reply));
}

/// A job id and an item id together are longer than AMQP's property for them.
pub(super) async fn long_ids_round_trip(backend: &impl Backend) {
    let id = format!("{}/{}", "j".repeat(128), "i".repeat(180));
    send(backend, &id).await;
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message.id, id);
    soon(delivery.ack()).await;
}

/// The message is retried, dropped, requeued, dead-lettered and sent again.
pub(super) async fn trace_survives_every_way_of_settling(backend: &impl Backend) {
    let queue = backend.queue();
    let sent = Message { trace: trace(), ..message("a") };
    send_to(&*queue, Lane::Items, &sent).await;
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent);
    soon(delivery.retry_after(Duration::from_millis(50))).await.unwrap();
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "retried");
    drop(delivery);
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "dropped");
    soon(delivery.requeue()).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "requeued");
    soon(delivery.dead_letter(&Failure::new("bad", "for a reason"))).await.unwrap();
    let letter = list_dead(&queue, 1, 1).await.pop().unwrap();
    assert_eq!(letter.delivery.message, sent, "dead-lettered");
    send_to(&*queue, Lane::Items, &letter.delivery.message).await;
    soon(letter.delivery.ack()).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "sent again");
    soon(delivery.ack()).await;
}
