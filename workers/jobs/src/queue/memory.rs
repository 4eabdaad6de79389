//! Messages in this process: nothing to install, and nothing that outlives the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast, mpsc};

use super::{Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError, Settle, Settled};
use crate::job::Failure;

/// How often a message may come back from consumers that went away with it.
const DELIVERY_LIMIT: u32 = 5;

/// Events that a slow listener may be behind before it misses some.
const EVENTS_KEPT: usize = 1024;

/// The queue of one process. Clones are the same queue.
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
    why: Failure,
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

    /// With a crash budget of its own: a message that comes back once more than `limit` is a dead letter.
    pub fn with_delivery_limit(limit: u32) -> Self {
        let shared = Shared {
            delivery_limit: limit,
            state: Mutex::default(),
            arrived: PerLane::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The events from now on. A listener that falls far behind misses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// A queue for answers: what is announced with this `reply_to` arrives here, until the receiver is dropped.
    pub fn reply_queue(&self, name: impl Into<String>) -> mpsc::UnboundedReceiver<Message> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.state().replies.insert(name.into(), sender);
        receiver
    }

    /// The dead letters, oldest first, each with its reason.
    pub fn peek_dead(&self) -> Vec<(Message, Failure)> {
        self.shared.state().dead.iter().map(|dead| (dead.message.clone(), dead.why.clone())).collect()
    }
}

impl Shared {
    /// Every change of the state is whole before anything can panic, so a poisoned lock holds a sound state.
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

    /// Its consumer has gone away with it: back in the lane, or dead when that happened too often.
    fn give_back(&self, lane: Lane, waiting: Waiting) {
        let redeliveries = waiting.redeliveries + 1;
        if redeliveries <= self.delivery_limit {
            return self.push(lane, Waiting { redeliveries, ..waiting });
        }
        let why = Failure::new(
            "delivery_limit",
            format!("delivered {redeliveries} times and never settled; it may crash whoever takes it"),
        );
        self.state().dead.push_back(Dead { lane, message: waiting.message, why });
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

    async fn announce(&self, event: &Event) -> Result<(), QueueError> {
        // An error says that nobody listens.
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
            let (lane, why, message) = (Some(dead.lane), dead.why.clone(), dead.message.clone());
            let settle = DeadSettle { shared: self.shared.clone(), dead: Some(dead) };
            DeadLetter { lane, why, delivery: Delivery::new(message, 0, Box::new(settle)) }
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
            // A message that arrives between looking and waiting leaves a permit behind, and the wait ends at once.
            if let Some(waiting) = self.shared.pop(self.lane) {
                break waiting;
            }
            self.shared.arrived.of(self.lane).notified().await;
        };
        // From here to the return nothing is awaited: dropping this future cannot lose the message.
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
            taken.give_back();
        }
    }
}

/// A message that is held. Whoever empties it first, the delivery or its consumer's end, decides what becomes of it.
struct Taken {
    shared: Arc<Shared>,
    lane: Lane,
    waiting: Mutex<Option<Waiting>>,
}

impl Taken {
    fn take(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn give_back(&self) {
        if let Some(waiting) = self.take() {
            self.shared.give_back(self.lane, waiting);
        }
    }
}

struct MemorySettle {
    taken: Arc<Taken>,
}

impl MemorySettle {
    /// Takes the message for good and does `then` with it, unless the consumer's end was faster.
    fn settle(&self, then: impl FnOnce(Arc<Shared>, Lane, Waiting)) -> Settled {
        match self.taken.take() {
            Some(waiting) => {
                then(self.taken.shared.clone(), self.taken.lane, waiting);
                Settled::Known
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

    async fn back(self: Box<Self>, after: Duration) -> Result<Settled, QueueError> {
        Ok(self.settle(|shared, lane, waiting| {
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                shared.push(lane, Waiting { message: waiting.message, redeliveries: 0 });
            });
        }))
    }

    async fn release(self: Box<Self>) -> Settled {
        self.settle(|shared, lane, waiting| shared.push(lane, waiting))
    }

    async fn bury(self: Box<Self>, why: &Failure) -> Result<Settled, QueueError> {
        let why = why.clone();
        Ok(self.settle(|shared, lane, waiting| {
            shared.state().dead.push_back(Dead { lane, message: waiting.message, why });
        }))
    }
}

impl Drop for MemorySettle {
    fn drop(&mut self) {
        self.taken.give_back();
    }
}

/// A dead letter that is held.
struct DeadSettle {
    shared: Arc<Shared>,
    dead: Option<Dead>,
}

#[async_trait]
impl Settle for DeadSettle {
    async fn ack(mut self: Box<Self>) -> Settled {
        self.dead = None;
        Settled::Known
    }

    async fn back(self: Box<Self>, _after: Duration) -> Result<Settled, QueueError> {
        Ok(self.release().await)
    }

    async fn release(self: Box<Self>) -> Settled {
        Settled::Known
    }

    async fn bury(mut self: Box<Self>, why: &Failure) -> Result<Settled, QueueError> {
        if let Some(dead) = &mut self.dead {
            dead.why = why.clone();
        }
        Ok(Settled::Known)
    }
}

impl Drop for DeadSettle {
    fn drop(&mut self) {
        if let Some(dead) = self.dead.take() {
            self.shared.state().dead.push_back(dead);
        }
    }
}
