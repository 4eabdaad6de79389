//! A queue whose messages belong to traces: each is sent in a span of its own, and takes that span's context along.
//!
//! Names are those of OpenTelemetry's semantic conventions for messaging and for RabbitMQ.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::{Instrument, Span, field::Empty, info_span};

use super::{Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError};
use crate::trace::{self, TraceContext};

/// Any queue, traced.
pub struct TracedQueue {
    queue: Arc<dyn Queue>,
}

impl TracedQueue {
    pub fn new(queue: Arc<dyn Queue>) -> Self {
        Self { queue }
    }

    /// The span of sending, under the one that is open here, or else where the message belongs.
    fn sending(&self, exchange: &str, key: &str, queue: &str, message: &Message) -> Span {
        let _belongs = TraceContext::current().or(&message.trace).attach();
        info_span!(
            "send",
            otel.name = format!("send {queue}"),
            otel.kind = "producer",
            "messaging.system" = self.queue.system(),
            "messaging.operation.name" = "send",
            "messaging.operation.type" = "send",
            "messaging.destination.name" = format!("{exchange}:{key}"),
            "messaging.rabbitmq.destination.routing_key" = key,
            "messaging.message.id" = message.id,
            "messaging.message.body.size" = message.body.len() as i64,
        )
    }
}

/// The same, belonging under the span that is open here.
fn here(message: &Message) -> Message {
    Message { trace: TraceContext::current().or(&message.trace), ..message.clone() }
}

fn failed<T>(result: Result<T, QueueError>) -> Result<T, QueueError> {
    result.inspect_err(|_| trace::failed("queue"))
}

/// The span of all that is done with a message, under the one in which it was sent.
pub fn processing(queue: &dyn Queue, lane: Lane, delivery: &Delivery) -> Span {
    let (name, key) = (queue.name(), lane.as_str());
    let _belongs = delivery.message.trace.attach();
    info_span!(
        "process",
        otel.name = format!("process {name}.{key}"),
        otel.kind = "consumer",
        "messaging.system" = queue.system(),
        "messaging.operation.name" = "process",
        "messaging.operation.type" = "process",
        "messaging.destination.name" = format!("{name}:{key}:{name}.{key}"),
        "messaging.rabbitmq.destination.routing_key" = key,
        "messaging.message.id" = delivery.message.id,
        "messaging.message.body.size" = delivery.message.body.len() as i64,
        "job.id" = Empty,
        "item.id" = Empty,
        "item.attempt" = Empty,
    )
}

#[async_trait]
impl Queue for TracedQueue {
    fn system(&self) -> &'static str {
        self.queue.system()
    }

    fn name(&self) -> &str {
        self.queue.name()
    }

    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        let (exchange, key) = (self.name(), lane.as_str());
        let span = self.sending(exchange, key, &format!("{exchange}.{key}"), message);
        async { failed(self.queue.send(lane, &here(message)).await) }.instrument(span).await
    }

    async fn announce(&self, event: &Event) -> Result<(), QueueError> {
        let exchange = format!("{}.events", self.name());
        let span = self.sending(&exchange, &event.topic, &exchange, &event.message);
        async {
            let event = Event { topic: event.topic.clone(), message: here(&event.message) };
            failed(self.queue.announce(&event).await)
        }
        .instrument(span)
        .await
    }

    async fn consumer(&self, lane: Lane) -> Box<dyn Consumer> {
        self.queue.consumer(lane).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(limit).await
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        self.queue.waiting(lane).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.queue.check().await
    }
}
