//! The bell: messages that say where to look in the ledger.
//!
//! A message may be delivered twice, late, or by somebody else than expected; nothing here is the truth about a job. What a
//! queue does promise: a message whose sending was confirmed is delivered until it is settled, unless it is delivered
//! more often than the queue's crash budget allows; then it is a dead letter.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

mod memory;
mod rabbitmq;
mod traced;

#[cfg(test)]
mod contract;

pub use memory::MemoryQueue;
pub use rabbitmq::{
    Argument, Binding, Exchange, QueueSpec, RabbitQueue, RabbitSettings, RetryTier, Routes, Topology,
    topology,
};
pub use traced::{TracedQueue, processing};

use crate::job::Failure;
use crate::trace::TraceContext;

/// Which messages: each lane is a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Jobs, and calls to look after one.
    Jobs,
    /// Items, one message each.
    Items,
    /// Items that somebody waits for: they have workers' slots of their own, so that no batch is before them.
    Urgent,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Jobs, Lane::Items, Lane::Urgent];

    /// Also the routing key.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Jobs => "jobs",
            Lane::Items => "items",
            Lane::Urgent => "urgent",
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Names the message; the job's id or `job/item`.
    pub id: String,
    /// The schema of the body, such as `flamingo.job/1`.
    pub kind: String,
    /// JSON.
    pub body: Bytes,
    /// The queue that wants to be told how it ended.
    pub reply_to: Option<String>,
    /// What the asker calls it.
    pub correlation_id: Option<String>,
    /// Where it belongs among traces: kept through every delivery, put back, buried and sent again.
    pub trace: TraceContext,
}

impl Message {
    /// Whom to tell and what they call it stands in the body too, where the ledger keeps it.
    pub fn new(id: String, kind: &str, body: impl Into<Bytes>) -> Self {
        Self {
            id,
            kind: kind.into(),
            body: body.into(),
            reply_to: None,
            correlation_id: None,
            trace: TraceContext::default(),
        }
    }
}

/// News for whoever listens: about a job that has ended, or a message that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The routing key among events, such as `job.succeeded`.
    pub topic: String,
    /// `message.reply_to` gets it too, when there is such a queue; that there is none is no error.
    pub message: Message,
}

/// The queue cannot do its work now; what was asked for may or may not have happened.
#[derive(Debug, thiserror::Error)]
#[error("queue: {0}")]
pub struct QueueError(pub String);

/// What has become of a settled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The queue knows.
    Known,
    /// The connection over which it came is gone: the message will be delivered again.
    Lost,
}

/// Where messages wait.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// What kind of queue it is, in OpenTelemetry's words: `rabbitmq`.
    fn system(&self) -> &'static str;

    /// What the names of its queues begin with: the lane `items` of `flamingo` is `flamingo.items`.
    fn name(&self) -> &str;

    /// Sends a message, and returns when the queue has it safely.
    ///
    /// # Errors
    /// It is not known to be safe; sending it again may duplicate it.
    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError>;

    /// Sends news to all who listen, and to `reply_to`. That nobody listens is no error.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    async fn announce(&self, event: &Event) -> Result<(), QueueError>;

    /// One who takes messages of a lane, one at a time. Its end (dropping it) gives back what it had taken and not settled.
    async fn consumer(&self, lane: Lane) -> Box<dyn Consumer>;

    /// The oldest dead letters, each held until it is acknowledged or dropped.
    ///
    /// # Errors
    /// The queue does not answer.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Messages of a lane that nobody has taken.
    ///
    /// # Errors
    /// The queue does not answer.
    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError>;

    /// Is it there, with everything that messages need?
    ///
    /// # Errors
    /// It is not, with the reason.
    async fn check(&self) -> Result<(), QueueError>;
}

/// A message that will not be delivered any more.
pub struct DeadLetter {
    /// Where it was before; `None`: it does not say.
    pub lane: Option<Lane>,
    /// Why it is dead.
    pub why: Failure,
    /// Acknowledged, it is gone; dropped, it stays a dead letter.
    pub delivery: Delivery,
}

/// One who takes messages, one at a time.
#[async_trait]
pub trait Consumer: Send {
    /// The next message. Waits as long as it takes, through lost connections and restarts of the queue. To stop waiting, drop
    /// the future: no message is lost by that. The delivery before must have been settled or dropped.
    async fn next(&mut self) -> Delivery;
}

/// How a backend settles a delivery.
#[async_trait]
pub trait Settle: Send {
    async fn ack(self: Box<Self>) -> Settled;
    async fn back(self: Box<Self>, after: Duration) -> Result<Settled, QueueError>;
    async fn release(self: Box<Self>) -> Settled;
    async fn bury(self: Box<Self>, why: &Failure) -> Result<Settled, QueueError>;
}

/// A message that was taken. Dropped without being settled, it goes back.
pub struct Delivery {
    pub message: Message,
    /// How often it had been delivered before.
    pub redeliveries: u32,
    settle: Box<dyn Settle>,
}

impl Delivery {
    pub fn new(message: Message, redeliveries: u32, settle: Box<dyn Settle>) -> Self {
        Self { message, redeliveries, settle }
    }

    /// It is done with.
    pub async fn ack(self) -> Settled {
        self.settle.ack().await
    }

    /// It comes again, not before `after` has passed: sent anew, confirmed, and only then acknowledged.
    ///
    /// # Errors
    /// It could not be sent anew; it was not acknowledged, so it comes again anyway.
    pub async fn back(self, after: Duration) -> Result<Settled, QueueError> {
        self.settle.back(after).await
    }

    /// It goes to somebody else, now.
    pub async fn release(self) -> Settled {
        self.settle.release().await
    }

    /// It becomes a dead letter with its reason: sent there, confirmed, and only then acknowledged.
    ///
    /// # Errors
    /// As [`back`](Self::back).
    pub async fn bury(self, why: &Failure) -> Result<Settled, QueueError> {
        self.settle.bury(why).await
    }
}
