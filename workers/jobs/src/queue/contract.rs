//! What every queue does, whatever is behind it: one suite, run on each backend.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::{Consumer, DeadLetter, Event, Lane, MemoryQueue, Message, Queue, Settled};
use crate::job::Failure;
use crate::trace::TraceContext;

/// What a message may come back with before it is dead, in every backend under test.
pub(super) const DELIVERY_LIMIT: u32 = 2;

/// A queue under test, and what only its outside shows.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    fn queue(&self) -> Arc<dyn Queue>;
    /// Every dead letter so far.
    async fn dead(&self) -> Vec<(Message, Failure)>;
    /// A queue that somebody wants answers in.
    async fn reply_queue(&self, name: &str) -> UnboundedReceiver<Message>;
    /// A name that no other test has.
    fn unique(&self, name: &str) -> String;
    /// Leaves nothing behind.
    async fn close(self);
}

/// Runs each behaviour as a test of its own on the backend that `$open` gives.
macro_rules! every_behaviour {
    ($open:path $(, #[$attribute:meta])?) => {
        $crate::queue::contract::every_behaviour! {
            @each $open, [$(#[$attribute])?],
            a_message_is_sent_taken_and_acknowledged
            lanes_are_apart
            a_message_is_held_until_it_is_settled
            a_dropped_delivery_comes_back_and_is_counted
            the_end_of_a_consumer_gives_back
            back_comes_later
            a_released_message_goes_to_somebody
            a_buried_message_is_dead_with_its_reason
            a_message_that_always_comes_back_is_dead
            dead_letters_can_be_looked_at_and_let_go
            consumers_share
            dropping_next_loses_nothing
            waiting_counts_what_nobody_has_taken
            announcing_needs_no_listener
            an_answer_reaches_its_queue
            a_long_id_survives
            a_trace_goes_along_whatever_becomes_of_its_message
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

/// Fails instead of hanging.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(15), what).await.expect("it takes longer than 15 s")
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
    let trace = TraceContext::read(
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        Some("vendor=said"),
    );
    assert_ne!(trace, TraceContext::default());
    trace
}

async fn send(backend: &impl Backend, id: &str) {
    soon(backend.queue().send(Lane::Items, &message(id))).await.unwrap();
}

async fn consumer(backend: &impl Backend) -> Box<dyn Consumer> {
    backend.queue().consumer(Lane::Items).await
}

async fn nothing_comes(consumer: &mut dyn Consumer) {
    let came = timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(came.is_err(), "{:?} came", came.map(|delivery| delivery.message));
}

/// Counters of a broker lag a little behind.
async fn until_waiting(backend: &impl Backend, expected: u64) {
    let queue = backend.queue();
    soon(async {
        while queue.waiting(Lane::Items).await.unwrap() != expected {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn until_dead(backend: &impl Backend, id: &str) -> Failure {
    soon(async {
        loop {
            if let Some((_, why)) = backend.dead().await.into_iter().find(|(dead, _)| dead.id == id) {
                return why;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub(super) async fn a_message_is_sent_taken_and_acknowledged(backend: &impl Backend) {
    let sent = Message {
        reply_to: Some("somebody".to_owned()),
        correlation_id: Some("their number".to_owned()),
        ..message("a")
    };
    soon(backend.queue().check()).await.unwrap();
    soon(backend.queue().send(Lane::Items, &sent)).await.unwrap();
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!((&delivery.message, delivery.redeliveries), (&sent, 0));
    assert_eq!(soon(delivery.ack()).await, Settled::Known);
    nothing_comes(&mut *consumer).await;
    until_waiting(backend, 0).await;
}

pub(super) async fn lanes_are_apart(backend: &impl Backend) {
    let queue = backend.queue();
    soon(queue.send(Lane::Jobs, &message("job"))).await.unwrap();
    let mut items = queue.consumer(Lane::Items).await;
    nothing_comes(&mut *items).await;
    let mut jobs = queue.consumer(Lane::Jobs).await;
    let delivery = soon(jobs.next()).await;
    assert_eq!(delivery.message.id, "job");
    delivery.ack().await;
}

pub(super) async fn a_message_is_held_until_it_is_settled(backend: &impl Backend) {
    send(backend, "a").await;
    let (mut holder, mut other) = (consumer(backend).await, consumer(backend).await);
    let held = soon(holder.next()).await;
    nothing_comes(&mut *other).await;
    assert_eq!(soon(held.ack()).await, Settled::Known);
    nothing_comes(&mut *other).await;
}

pub(super) async fn a_dropped_delivery_comes_back_and_is_counted(backend: &impl Backend) {
    send(backend, "a").await;
    let mut consumer = consumer(backend).await;
    for expected in 0..=DELIVERY_LIMIT {
        let delivery = soon(consumer.next()).await;
        assert_eq!((delivery.message.id.as_str(), delivery.redeliveries), ("a", expected));
        drop(delivery);
    }
}

pub(super) async fn the_end_of_a_consumer_gives_back(backend: &impl Backend) {
    send(backend, "a").await;
    let mut first = consumer(backend).await;
    let held = soon(first.next()).await;
    drop(first);
    let mut second = consumer(backend).await;
    let again = soon(second.next()).await;
    assert_eq!((again.message.id.as_str(), again.redeliveries), ("a", 1));
    assert_eq!(soon(held.ack()).await, Settled::Lost);
    assert_eq!(soon(again.ack()).await, Settled::Known);
    nothing_comes(&mut *second).await;
}

pub(super) async fn back_comes_later(backend: &impl Backend) {
    let mut consumer = consumer(backend).await;
    for after in [150, 700].map(Duration::from_millis) {
        send(backend, "a").await;
        let delivery = soon(consumer.next()).await;
        let since = Instant::now();
        assert_eq!(soon(delivery.back(after)).await.unwrap(), Settled::Known);
        let again = soon(consumer.next()).await;
        assert!(since.elapsed() >= after, "{:?} is before {after:?}", since.elapsed());
        assert_eq!((&again.message, again.redeliveries), (&message("a"), 0));
        assert_eq!(soon(again.ack()).await, Settled::Known);
    }
}

pub(super) async fn a_released_message_goes_to_somebody(backend: &impl Backend) {
    send(backend, "a").await;
    let (mut first, mut second) = (consumer(backend).await, consumer(backend).await);
    let delivery = soon(first.next()).await;
    assert_eq!(soon(delivery.release()).await, Settled::Known);
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

pub(super) async fn a_buried_message_is_dead_with_its_reason(backend: &impl Backend) {
    send(backend, "a").await;
    let mut consumer = consumer(backend).await;
    let why = Failure::new("no_video", "the file has no video stream");
    let delivery = soon(consumer.next()).await;
    assert_eq!(soon(delivery.bury(&why)).await.unwrap(), Settled::Known);
    assert_eq!(until_dead(backend, "a").await, why);
    nothing_comes(&mut *consumer).await;
}

pub(super) async fn a_message_that_always_comes_back_is_dead(backend: &impl Backend) {
    send(backend, "poison").await;
    let mut consumer = consumer(backend).await;
    for _ in 0..=DELIVERY_LIMIT {
        drop(soon(consumer.next()).await);
    }
    assert_eq!(until_dead(backend, "poison").await.code, "delivery_limit");
    nothing_comes(&mut *consumer).await;
}

pub(super) async fn dead_letters_can_be_looked_at_and_let_go(backend: &impl Backend) {
    let queue = backend.queue();
    assert!(queue.dead_letters(5).await.unwrap().is_empty());
    let mut consumer = consumer(backend).await;
    for (id, code) in [("a", "first"), ("b", "second"), ("c", "third")] {
        send(backend, id).await;
        let delivery = soon(consumer.next()).await;
        assert_eq!(delivery.bury(&Failure::new(code, "for a reason")).await.unwrap(), Settled::Known);
    }
    let codes = |letters: &[DeadLetter]| letters.iter().map(|l| l.why.code.clone()).collect::<BTreeSet<_>>();
    // However often: looking takes nothing away.
    for _ in 0..3 {
        drop(look(&queue, 5, 3).await);
    }
    let looked = look(&queue, 2, 2).await;
    assert!(looked.iter().all(|l| l.lane == Some(Lane::Items) && l.why.message == "for a reason"));
    assert_eq!(look(&queue, 5, 1).await.len(), 1, "what somebody holds nobody else gets");
    drop(looked);
    let letters = look(&queue, 5, 3).await;
    assert_eq!(codes(&letters), ["first", "second", "third"].map(String::from).into());
    for letter in letters {
        if letter.why.code != "second" {
            assert_eq!(letter.delivery.ack().await, Settled::Known);
        }
    }
    assert_eq!(codes(&look(&queue, 5, 1).await), ["second".to_owned()].into());
}

/// Looks until there are so many: a letter that was dropped, or has just been buried, needs a moment.
async fn look(queue: &Arc<dyn Queue>, limit: usize, expected: usize) -> Vec<DeadLetter> {
    for _ in 0..200 {
        let letters = queue.dead_letters(limit).await.unwrap();
        if letters.len() == expected {
            return letters;
        }
        drop(letters);
        sleep(Duration::from_millis(50)).await;
    }
    panic!("there are never {expected} dead letters");
}

pub(super) async fn consumers_share(backend: &impl Backend) {
    const EACH: usize = 3;
    let mut consumers = Vec::new();
    for _ in 0..4 {
        consumers.push(consumer(backend).await);
    }
    for number in 0..consumers.len() * EACH {
        send(backend, &number.to_string()).await;
    }
    let mut seen = BTreeSet::new();
    for _ in 0..EACH {
        let held = soon(futures_util::future::join_all(consumers.iter_mut().map(|one| one.next()))).await;
        for delivery in held {
            assert!(seen.insert(delivery.message.id.clone()), "{} came twice", delivery.message.id);
            soon(delivery.ack()).await;
        }
    }
    assert_eq!(seen.len(), consumers.len() * EACH);
}

pub(super) async fn dropping_next_loses_nothing(backend: &impl Backend) {
    const MESSAGES: usize = 40;
    let queue = backend.queue();
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            queue.send(Lane::Items, &message(&number.to_string())).await.unwrap();
            sleep(Duration::from_millis(2)).await;
        }
    });
    let mut consumer = consumer(backend).await;
    let mut seen = Vec::new();
    soon(async {
        for turn in 0.. {
            let patience = Duration::from_micros(turn % 7 * 300);
            let Ok(delivery) = timeout(patience, consumer.next()).await else { continue };
            assert_eq!(delivery.redeliveries, 0);
            seen.push(delivery.message.id.clone());
            delivery.ack().await;
            if seen.len() == MESSAGES {
                break;
            }
        }
    })
    .await;
    sending.await.unwrap();
    nothing_comes(&mut *consumer).await;
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(seen, expected);
}

pub(super) async fn waiting_counts_what_nobody_has_taken(backend: &impl Backend) {
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

pub(super) async fn announcing_needs_no_listener(backend: &impl Backend) {
    for reply_to in [None, Some("nobody".to_owned()), Some("n".repeat(300))] {
        let event =
            Event { topic: "job.succeeded".to_owned(), message: Message { reply_to, ..message("a") } };
        soon(backend.queue().announce(&event)).await.unwrap();
    }
}

pub(super) async fn an_answer_reaches_its_queue(backend: &impl Backend) {
    let name = backend.unique("answers");
    let mut answers = backend.reply_queue(&name).await;
    let answer =
        Message { reply_to: Some(name), correlation_id: Some("their number".to_owned()), ..message("a") };
    let event = Event { topic: "job.succeeded".to_owned(), message: answer.clone() };
    soon(backend.queue().announce(&event)).await.unwrap();
    assert_eq!(soon(answers.recv()).await, Some(answer));
}

/// A job's id and an item's are longer together than AMQP's property for them.
pub(super) async fn a_long_id_survives(backend: &impl Backend) {
    let id = format!("{}/{}", "j".repeat(128), "i".repeat(180));
    send(backend, &id).await;
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message.id, id);
    soon(delivery.ack()).await;
}

/// Put back, dropped, given back, buried and sent once more.
pub(super) async fn a_trace_goes_along_whatever_becomes_of_its_message(backend: &impl Backend) {
    let queue = backend.queue();
    let sent = Message { trace: trace(), ..message("a") };
    soon(queue.send(Lane::Items, &sent)).await.unwrap();
    let mut consumer = consumer(backend).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent);
    soon(delivery.back(Duration::from_millis(50))).await.unwrap();
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "put back");
    drop(delivery);
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "dropped");
    soon(delivery.release()).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "given back");
    soon(delivery.bury(&Failure::new("bad", "for a reason"))).await.unwrap();
    let letter = look(&queue, 1, 1).await.pop().unwrap();
    assert_eq!(letter.delivery.message, sent, "buried");
    soon(queue.send(Lane::Items, &letter.delivery.message)).await.unwrap();
    soon(letter.delivery.ack()).await;
    let delivery = soon(consumer.next()).await;
    assert_eq!(delivery.message, sent, "sent once more");
    soon(delivery.ack()).await;
}

#[async_trait]
impl Backend for MemoryQueue {
    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.clone())
    }

    async fn dead(&self) -> Vec<(Message, Failure)> {
        self.peek_dead()
    }

    async fn reply_queue(&self, name: &str) -> UnboundedReceiver<Message> {
        MemoryQueue::reply_queue(self, name)
    }

    fn unique(&self, name: &str) -> String {
        name.to_owned()
    }

    async fn close(self) {}
}

mod memory {
    use super::*;

    async fn open() -> MemoryQueue {
        MemoryQueue::with_delivery_limit(DELIVERY_LIMIT)
    }

    every_behaviour!(open);

    #[tokio::test]
    async fn events_reach_who_listens() {
        let queue = open().await;
        let mut events = queue.subscribe();
        let event = Event { topic: "job.failed".to_owned(), message: message("a") };
        queue.announce(&event).await.unwrap();
        assert_eq!(events.recv().await.unwrap(), event);
    }
}
