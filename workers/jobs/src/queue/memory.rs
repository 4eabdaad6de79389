//! In-memory queue. It needs no server, and its messages end with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast, mpsc};

use super::{
    Address, Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError, Sent, Settle, Settled,
};
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
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    /// Those of all workers, and those of routes that have had a consumer.
    queues: HashMap<Address, Waiting>,
    dead: VecDeque<Dead>,
    replies: HashMap<String, mpsc::UnboundedSender<Message>>,
}

/// Messages of one queue that no consumer has taken.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<Pending>,
    arrived: Arc<Notify>,
}

#[derive(Clone)]
struct Dead {
    from: Address,
    message: Message,
    reason: Failure,
}

struct Pending {
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
            state: Mutex::new(State {
                queues: Lane::ALL.map(|lane| (lane.into(), Waiting::default())).into(),
                ..State::default()
            }),
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

    /// Creates the queues of a new route. Returns the notification about arrivals at this address.
    fn open(&self, at: &Address) -> Arc<Notify> {
        let mut state = self.state();
        for address in at.route.iter().flat_map(Address::of_route) {
            state.queues.entry(address).or_default();
        }
        state.queues.entry(at.clone()).or_default().arrived.clone()
    }

    fn push(&self, to: &Address, pending: Pending) -> Sent {
        let mut state = self.state();
        let Some(waiting) = state.queues.get_mut(to) else { return Sent::NoQueue };
        waiting.messages.push_back(pending);
        waiting.arrived.notify_one();
        Sent::Confirmed
    }

    /// Puts a message back into the queue that delivered it, which therefore exists.
    fn push_back(&self, to: &Address, pending: Pending) {
        let _confirmed = self.push(to, pending);
    }

    fn pop(&self, from: &Address) -> Option<Pending> {
        self.state().queues.get_mut(from)?.messages.pop_front()
    }

    /// Requeues the message of a dropped consumer, or dead-letters it after too many redeliveries.
    fn redeliver(&self, to: &Address, pending: Pending) {
        let redeliveries = pending.redeliveries + 1;
        if redeliveries <= self.delivery_limit {
            return self.push_back(to, Pending { redeliveries, ..pending });
        }
        let reason = Failure::new(
            "delivery_limit",
            format!("delivered {redeliveries} times and never settled; it may crash its workers"),
        );
        self.state().dead.push_back(Dead { from: to.clone(), message: pending.message, reason });
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

    async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError> {
        Ok(self.shared.push(to, Pending { message: message.clone(), redeliveries: 0 }))
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

    async fn consumer(&self, of: &Address) -> Box<dyn Consumer> {
        let arrived = self.shared.open(of);
        Box::new(MemoryConsumer { shared: self.shared.clone(), from: of.clone(), arrived, taken: None })
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut state = self.shared.state();
        let held = limit.min(state.dead.len());
        let held = state.dead.drain(..held).map(|dead| {
            let (lane, reason, message) = (Some(dead.from.lane), dead.reason.clone(), dead.message.clone());
            let settle = DeadSettle { shared: self.shared.clone(), dead: Some(dead) };
            DeadLetter { lane, reason, delivery: Delivery::new(message, 0, Box::new(settle)) }
        });
        Ok(held.collect())
    }

    async fn waiting(&self, at: &Address) -> Result<u64, QueueError> {
        let state = self.shared.state();
        let waiting = state.queues.get(at).ok_or_else(|| QueueError(format!("no queue {}", at.key())))?;
        Ok(waiting.messages.len() as u64)
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    from: Address,
    arrived: Arc<Notify>,
    taken: Option<Arc<Taken>>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Delivery {
        let pending = loop {
            // A message that arrives between `pop` and `notified` leaves a permit, so the wait ends at once.
            if let Some(pending) = self.shared.pop(&self.from) {
                break pending;
            }
            self.arrived.notified().await;
        };
        // No await from here to the return: dropping this future cannot lose the message.
        let (message, redeliveries) = (pending.message.clone(), pending.redeliveries);
        let taken = Arc::new(Taken {
            shared: self.shared.clone(),
            from: self.from.clone(),
            pending: Mutex::new(Some(pending)),
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
    from: Address,
    pending: Mutex<Option<Pending>>,
}

impl Taken {
    fn take(&self) -> Option<Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn redeliver(&self) {
        if let Some(pending) = self.take() {
            self.shared.redeliver(&self.from, pending);
        }
    }
}

struct MemorySettle {
    taken: Arc<Taken>,
}

impl MemorySettle {
    /// Takes the message and passes it to `then`, unless the consumer was dropped before.
    fn settle(&self, then: impl FnOnce(Arc<Shared>, Address, Pending)) -> Settled {
        match self.taken.take() {
            Some(pending) => {
                then(self.taken.shared.clone(), self.taken.from.clone(), pending);
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
        Ok(self.settle(|shared, from, pending| {
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                shared.push_back(&from, Pending { message: pending.message, redeliveries: 0 });
            });
        }))
    }

    async fn requeue(self: Box<Self>) -> Settled {
        self.settle(|shared, from, pending| shared.push_back(&from, pending))
    }

    async fn dead_letter(self: Box<Self>, reason: &Failure) -> Result<Settled, QueueError> {
        let reason = reason.clone();
        Ok(self.settle(|shared, from, pending| {
            shared.state().dead.push_back(Dead { from, message: pending.message, reason });
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
