//! In-memory queue. It needs no server, and its messages end with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast, mpsc};

use super::{Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError, Settle, Settled};
use crate::Failure;

/// Maximum redeliveries of a message after its consumer was dropped.
const DELIVERY_LIMIT: u32 = 5;

/// Events that a slow subscriber may lag behind before it misses some.
const EVENT_BUFFER: usize = 1024;

/// Queue within one process. Clones share the same queue.
#[derive(Clone)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

struct Shared {
    delivery_limit: u32,
    state: Mutex<State>,
    arrived: PerLane<Notify>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    ready: PerLane<VecDeque<Waiting>>,
    dead: VecDeque<Dead>,
    replies: HashMap<String, mpsc::UnboundedSender<Message>>,
}

#[derive(Default)]
struct PerLane<T> {
    jobs: T,
    items: T,
    urgent: T,
}

impl<T> PerLane<T> {
    fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Jobs => &self.jobs,
            Lane::Items => &self.items,
            Lane::Urgent => &self.urgent,
        }
    }

    fn of_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Jobs => &mut self.jobs,
            Lane::Items => &mut self.items,
            Lane::Urgent => &mut self.urgent,
        }
    }
}

#[derive(Clone)]
struct Dead {
    lane: Lane,
    message: Message,
    reason: Failure,
}

struct Waiting {
    message: Message,
    redeliveries: u32,
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryQueue {
    pub fn new() -> Self {
        Self::with_delivery_limit(DELIVERY_LIMIT)
    }

    /// Creates a queue with a delivery limit: a message with more than `limit` redeliveries becomes a dead letter.
    pub fn with_delivery_limit(limit: u32) -> Self {
        let shared = Shared {
            delivery_limit: limit,
            state: Mutex::default(),
            arrived: PerLane::default(),
            events: broadcast::Sender::new(EVENT_BUFFER),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Subscribes to further events. A subscriber that lags far behind misses the oldest ones.
    #[cfg(test)]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Creates a reply queue: it receives the events with this `reply_to` until the receiver is dropped.
    #[cfg(test)]
    pub fn reply_queue(&self, name: impl Into<String>) -> mpsc::UnboundedReceiver<Message> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.state().replies.insert(name.into(), sender);
        receiver
    }

    /// Returns copies of the dead letters, oldest first, each with its reason.
    #[cfg(test)]
    pub fn peek_dead(&self) -> Vec<(Message, Failure)> {
        self.shared.state().dead.iter().map(|dead| (dead.message.clone(), dead.reason.clone())).collect()
    }
}

impl Shared {
    /// Locks the state. Each change is complete before anything can panic, so a poisoned lock holds a valid state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lane: Lane, waiting: Waiting) {
        self.state().ready.of_mut(lane).push_back(waiting);
        self.arrived.of(lane).notify_one();
    }

    fn pop(&self, lane: Lane) -> Option<Waiting> {
        self.state().ready.of_mut(lane).pop_front()
    }

    /// Requeues the message of a dropped consumer, or dead-letters it after too many redeliveries.
    fn redeliver(&self, lane: Lane, waiting: Waiting) {
        let redeliveries = waiting.redeliveries + 1;
        if redeliveries <= self.delivery_limit {
            return self.push(lane, Waiting { redeliveries, ..waiting });
        }
        let reason = Failure::new(
            "delivery_limit",
            format!("delivered {redeliveries} times and never settled; it may crash its workers"),
        );
        self.state().dead.push_back(Dead { lane, message: waiting.message, reason });
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn name(&self) -> &str {
        "memory"
    }

    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        self.shared.push(lane, Waiting { message: message.clone(), redeliveries: 0 });
        Ok(())
    }

    async fn publish_event(&self, event: &Event) -> Result<(), QueueError> {
        // An error means that there is no subscriber.
        let _ = self.shared.events.send(event.clone());
        if let Some(name) = &event.message.reply_to {
            let mut state = self.shared.state();
            let gone =
                state.replies.get(name).is_some_and(|reply| reply.send(event.message.clone()).is_err());
            if gone {
                state.replies.remove(name);
            }
        }
        Ok(())
    }

    async fn consumer(&self, lane: Lane) -> Box<dyn Consumer> {
        Box::new(MemoryConsumer { shared: self.shared.clone(), lane, taken: None })
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut state = self.shared.state();
        let held = limit.min(state.dead.len());
        let held = state.dead.drain(..held).map(|dead| {
            let (lane, reason, message) = (Some(dead.lane), dead.reason.clone(), dead.message.clone());
            let settle = DeadSettle { shared: self.shared.clone(), dead: Some(dead) };
            DeadLetter { lane, reason, delivery: Delivery::new(message, 0, Box::new(settle)) }
        });
        Ok(held.collect())
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        Ok(self.shared.state().ready.of(lane).len() as u64)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    lane: Lane,
    taken: Option<Arc<Taken>>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Delivery {
        let waiting = loop {
            // A message that arrives between `pop` and `notified` leaves a permit, so the wait ends at once.
            if let Some(waiting) = self.shared.pop(self.lane) {
                break waiting;
            }
            self.shared.arrived.of(self.lane).notified().await;
        };
        // No await from here to the return: dropping this future cannot lose the message.
        let (message, redeliveries) = (waiting.message.clone(), waiting.redeliveries);
        let taken = Arc::new(Taken {
            shared: self.shared.clone(),
            lane: self.lane,
            waiting: Mutex::new(Some(waiting)),
        });
        self.taken = Some(taken.clone());
        Delivery::new(message, redeliveries, Box::new(MemorySettle { taken }))
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            taken.redeliver();
        }
    }
}

/// Delivered message. It is settled by the delivery or by dropping the consumer, whichever comes first.
struct Taken {
    shared: Arc<Shared>,
    lane: Lane,
    waiting: Mutex<Option<Waiting>>,
}

impl Taken {
    fn take(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn redeliver(&self) {
        if let Some(waiting) = self.take() {
            self.shared.redeliver(self.lane, waiting);
        }
    }
}

struct MemorySettle {
    taken: Arc<Taken>,
}

impl MemorySettle {
    /// Takes the message and passes it to `then`, unless the consumer was dropped before.
    fn settle(&self, then: impl FnOnce(Arc<Shared>, Lane, Waiting)) -> Settled {
        match self.taken.take() {
            Some(waiting) => {
                then(self.taken.shared.clone(), self.taken.lane, waiting);
                Settled::Confirmed
            }
            None => Settled::Lost,
        }
    }
}

#[async_trait]
impl Settle for MemorySettle {
    async fn ack(self: Box<Self>) -> Settled {
        self.settle(|_, _, _| ())
    }

    async fn retry_after(self: Box<Self>, after: Duration) -> Result<Settled, QueueError> {
        Ok(self.settle(|shared, lane, waiting| {
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                shared.push(lane, Waiting { message: waiting.message, redeliveries: 0 });
            });
        }))
    }

    async fn requeue(self: Box<Self>) -> Settled {
        self.settle(|shared, lane, waiting| shared.push(lane, waiting))
    }

    async fn dead_letter(self: Box<Self>, reason: &Failure) -> Result<Settled, QueueError> {
        let reason = reason.clone();
        Ok(self.settle(|shared, lane, waiting| {
            shared.state().dead.push_back(Dead { lane, message: waiting.message, reason });
        }))
    }
}

impl Drop for MemorySettle {
    fn drop(&mut self) {
        self.taken.redeliver();
    }
}

/// Dead letter that a caller holds.
struct DeadSettle {
    shared: Arc<Shared>,
    dead: Option<Dead>,
}

#[async_trait]
impl Settle for DeadSettle {
    async fn ack(mut self: Box<Self>) -> Settled {
        self.dead = None;
        Settled::Confirmed
    }

    async fn retry_after(self: Box<Self>, _after: Duration) -> Result<Settled, QueueError> {
        Ok(self.requeue().await)
    }

    async fn requeue(self: Box<Self>) -> Settled {
        Settled::Confirmed
    }

    async fn dead_letter(mut self: Box<Self>, reason: &Failure) -> Result<Settled, QueueError> {
        if let Some(dead) = &mut self.dead {
            dead.reason = reason.clone();
        }
        Ok(Settled::Confirmed)
    }
}

impl Drop for DeadSettle {
    fn drop(&mut self) {
        if let Some(dead) = self.dead.take() {
            self.shared.state().dead.push_back(dead);
        }
    }
}
