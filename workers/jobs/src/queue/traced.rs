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

    /// The span of sending a message that belongs under `context`.
    fn sending(
        &self,
        context: &TraceContext,
        exchange: &str,
        key: &str,
        queue: &str,
        message: &Message,
    ) -> Span {
        let span = info_span!(
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
        );
        context.adopt(&span);
        span
    }
}

/// The same, belonging under the span that is open here; where no spans are kept, under `context`.
fn here(message: &Message, context: &TraceContext) -> Message {
    Message { trace: TraceContext::current().or(context), ..message.clone() }
}

fn failed<T>(result: Result<T, QueueError>) -> Result<T, QueueError> {
    result.inspect_err(|_| trace::failed("queue"))
}

/// The span of all that is done with a message, under the one in which it was sent.
pub fn processing(queue: &dyn Queue, lane: Lane, delivery: &Delivery) -> Span {
    let (name, key) = (queue.name(), lane.as_str());
    let span = info_span!(
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
    );
    delivery.message.trace.adopt(&span);
    span
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
        let context = TraceContext::current().or(&message.trace);
        let span = self.sending(&context, exchange, key, &format!("{exchange}.{key}"), message);
        async { failed(self.queue.send(lane, &here(message, &context)).await) }.instrument(span).await
    }

    async fn announce(&self, event: &Event) -> Result<(), QueueError> {
        let exchange = format!("{}.events", self.name());
        // Whoever sends news may be busy with another job.
        let context = event.message.trace.clone().or(&TraceContext::current());
        let span = self.sending(&context, &exchange, &event.topic, &exchange, &event.message);
        async {
            let event = Event { topic: event.topic.clone(), message: here(&event.message, &context) };
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

#[cfg(test)]
mod tests {
    use opentelemetry::global;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::queue::MemoryQueue;

    /// The worker that sends them may be at another job: what it sends for that one belongs there.
    #[tokio::test]
    async fn news_belong_to_their_own_job() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let tracer = SdkTracerProvider::builder().build().tracer("jobs");
        let spans = tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
        let _kept = tracing::subscriber::set_default(spans);

        let memory = MemoryQueue::new();
        let mut news = memory.subscribe();
        let queue = TracedQueue::new(Arc::new(memory));
        let job = "4bf92f3577b34da6a3ce929d0e0e4736";
        let trace = TraceContext::read(Some(&format!("00-{job}-00f067aa0ba902b7-01")), None);
        let message = Message { trace: trace.clone(), ..Message::new("job".into(), "news", "") };
        let event = Event { topic: "job.succeeded".into(), message: message.clone() };
        async {
            queue.announce(&event).await.unwrap();
            let told = news.recv().await.unwrap().message.trace;
            assert!(told.traceparent().unwrap().contains(job) && told != trace, "{told:?}");

            let other = TraceContext::current();
            queue.send(Lane::Items, &message).await.unwrap();
            let sent = queue.consumer(Lane::Items).await.next().await.message.trace;
            let trace_id = |context: &TraceContext| context.traceparent().map(|text| text[3..35].to_owned());
            assert_eq!(trace_id(&sent), trace_id(&other));
        }
        .instrument(info_span!("another job"))
        .await;
    }
}
