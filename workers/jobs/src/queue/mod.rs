//! Queue of messages. Messages are notifications only; the ledger holds the state.
//!
//! A message may be delivered twice, late, or sent by an unexpected sender. The queue promises: a message whose sending was
//! confirmed is redelivered until it is settled. If it is delivered more often than the delivery limit allows, it becomes a
//! dead letter.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

mod address;
mod memory;
mod rabbitmq;
mod traced;

#[cfg(test)]
mod contract;

pub use address::{Address, Lane, Route};
pub use memory::MemoryQueue;
pub use rabbitmq::{
    Argument, Binding, Exchange, QueueSpec, RabbitQueue, RabbitSettings, RetryTier, Routes, Topology,
    topology,
};
pub use traced::{process_span, publish_traced, send_traced};

use crate::trace::TraceContext;
use crate::{Disposition, Failure, ItemId, JobId, Stopped};

/// Message with its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id of the message: the job's id or `job/item`.
    pub id: String,
    /// Schema of the body, such as `flamingo.job/1`.
    pub kind: String,
    /// Body, in JSON.
    pub body: Bytes,
    /// Queue for the event of the end.
    pub reply_to: Option<String>,
    /// Correlation id of the sender.
    pub correlation_id: Option<String>,
    /// Parent trace, kept through redelivery, retry and dead-lettering.
    pub trace: TraceContext,
}

impl Message {
    /// Creates a message without `reply_to` and `correlation_id`; the body holds them too, and the ledger keeps the body.
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

/// Event of an ended job or a refused message, for all subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Routing key, such as `job.succeeded`.
    pub topic: String,
    /// The queue `message.reply_to` gets it too; a missing queue is no error.
    pub message: Message,
}

/// Error of the queue. The operation may or may not have happened.
#[derive(Debug, thiserror::Error)]
#[error("queue: {0}")]
pub struct QueueError(pub String);

impl From<QueueError> for Stopped {
    fn from(error: QueueError) -> Self {
        Self::retry_free(Failure::new("queue_unavailable", error.to_string()))
    }
}

/// Result of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    Confirmed,
    /// Not sent: there is no queue of the route, so no worker with it has run yet.
    NoQueue,
}

/// Result of settling a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The queue has it.
    Confirmed,
    /// The connection of the delivery was lost: the message will be redelivered.
    Lost,
}

/// Queue backend.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Returns the messaging system by OpenTelemetry's conventions, such as `rabbitmq`.
    fn system(&self) -> &'static str;

    /// Returns the prefix of the queue names: the lane `items` of `flamingo` is `flamingo.items`.
    fn name(&self) -> &str;

    /// Sends a message, and returns when the queue has confirmed it.
    ///
    /// # Errors
    /// The queue has not confirmed it; another send may duplicate it.
    async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError>;

    /// Publishes an event to all subscribers and to `reply_to`. An event without subscribers is no error.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    async fn publish_event(&self, event: &Event) -> Result<(), QueueError>;

    /// Creates a consumer, which takes one message at a time. Dropping it requeues its unsettled delivery. The first
    /// consumer of a route creates its queues, which stay.
    async fn consumer(&self, of: &Address) -> Box<dyn Consumer>;

    /// Takes the oldest dead letters. Each is held until it is acknowledged or dropped.
    ///
    /// # Errors
    /// The queue does not answer.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Returns the number of messages that no consumer has taken.
    ///
    /// # Errors
    /// The queue does not answer, or there is no queue of the route.
    async fn waiting(&self, at: &Address) -> Result<u64, QueueError>;

    /// Checks that the queue is reachable and complete.
    ///
    /// # Errors
    /// It is not, with the reason.
    async fn check(&self) -> Result<(), QueueError>;
}

/// Message that will not be delivered to workers any more.
pub struct DeadLetter {
    /// Lane that it came from; `None` if it does not say.
    pub lane: Option<Lane>,
    /// Reason for dead-lettering it.
    pub reason: Failure,
    /// Acknowledging it deletes the dead letter; dropping it keeps the dead letter.
    pub delivery: Delivery,
}

impl DeadLetter {
    /// Returns the item that the message is about, if it is about one.
    pub fn item(&self) -> Option<(JobId, ItemId)> {
        if !matches!(self.lane, Some(Lane::Items | Lane::Urgent)) {
            return None;
        }
        let (job, item) = self.delivery.message.id.split_once('/')?;
        Some((JobId::try_from(job.to_owned()).ok()?, ItemId::try_from(item.to_owned()).ok()?))
    }
}

/// Consumer of one message at a time.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next message, through lost connections and restarts of the queue. Dropping the future loses no message.
    /// The previous delivery must have been settled or dropped.
    async fn next(&mut self) -> Delivery;
}

/// Settling of a delivery by a backend.
#[async_trait]
pub trait Settle: Send {
    async fn ack(self: Box<Self>) -> Settled;
    async fn retry_after(self: Box<Self>, after: Duration) -> Result<Settled, QueueError>;
    async fn requeue(self: Box<Self>) -> Settled;
    async fn dead_letter(self: Box<Self>, reason: &Failure) -> Result<Settled, QueueError>;
}

/// Delivered message. Dropping it unsettled requeues the message.
pub struct Delivery {
    pub message: Message,
    /// Number of earlier deliveries.
    pub redeliveries: u32,
    settle: Box<dyn Settle>,
}

impl Delivery {
    pub fn new(message: Message, redeliveries: u32, settle: Box<dyn Settle>) -> Self {
        Self { message, redeliveries, settle }
    }

    /// Acknowledges the message: the queue deletes it.
    pub async fn ack(self) -> Settled {
        self.settle.ack().await
    }

    /// Redelivers the message after `after`: sends it again, waits for the confirm and then acknowledges the delivery.
    ///
    /// # Errors
    /// It could not be sent again. It was not acknowledged, so it is redelivered anyway.
    pub async fn retry_after(self, after: Duration) -> Result<Settled, QueueError> {
        self.settle.retry_after(after).await
    }

    /// Requeues the message for immediate redelivery.
    pub async fn requeue(self) -> Settled {
        self.settle.requeue().await
    }

    /// Makes the message a dead letter with its reason: sends it there, waits for the confirm and then acknowledges the
    /// delivery.
    ///
    /// # Errors
    /// As [`retry_after`](Self::retry_after).
    pub async fn dead_letter(self, reason: &Failure) -> Result<Settled, QueueError> {
        self.settle.dead_letter(reason).await
    }

    /// Settles the delivery of work that stopped: dead-letters, redelivers after `after`, or requeues it.
    ///
    /// # Errors
    /// As [`retry_after`](Self::retry_after).
    pub async fn settle_stopped(self, stopped: &Stopped, after: Duration) -> Result<Settled, QueueError> {
        match stopped.disposition {
            Disposition::Fail => self.dead_letter(&stopped.failure).await,
            Disposition::Retry(_) | Disposition::WorkerFault => self.retry_after(after).await,
            Disposition::Cancelled => Ok(self.requeue().await),
        }
    }
}
