//! Traced sends: each message is sent in a span of its own and carries the context of that span.
//!
//! Names follow OpenTelemetry's semantic conventions for messaging and for RabbitMQ.

use tracing::{Instrument, Span, field::Empty, info_span};

use super::{Address, Delivery, Event, Message, Queue, QueueError, Sent};
use crate::trace::{self, TraceContext};

/// Sends a message in a span of its own.
///
/// # Errors
/// As [`Queue::send`].
pub async fn send_traced(queue: &dyn Queue, to: &Address, message: &Message) -> Result<Sent, QueueError> {
    let (exchange, key) = (queue.name(), to.key());
    let context = TraceContext::current().or(&message.trace);
    let span = send_span(queue, &context, exchange, &key, &format!("{exchange}.{key}"), message);
    async { mark_errors(queue.send(to, &with_open_span(message, &context)).await) }.instrument(span).await
}

/// Publishes an event in a span of its own.
///
/// # Errors
/// As [`Queue::publish_event`].
pub async fn publish_traced(queue: &dyn Queue, event: &Event) -> Result<(), QueueError> {
    let exchange = format!("{}.events", queue.name());
    // The worker that publishes an event may be processing another job.
    let context = event.message.trace.clone().or(&TraceContext::current());
    let span = send_span(queue, &context, &exchange, &event.topic, &exchange, &event.message);
    async {
        let event = Event { topic: event.topic.clone(), message: with_open_span(&event.message, &context) };
        mark_errors(queue.publish_event(&event).await)
    }
    .instrument(span)
    .await
}

/// Opens the span of sending a message under `context`.
fn send_span(
    queue: &dyn Queue,
    context: &TraceContext,
    exchange: &str,
    key: &str,
    queue_name: &str,
    message: &Message,
) -> Span {
    let span = info_span!(
        "send",
        otel.name = format!("send {queue_name}"),
        otel.kind = "producer",
        "messaging.system" = queue.system(),
        "messaging.operation.name" = "send",
        "messaging.operation.type" = "send",
        "messaging.destination.name" = format!("{exchange}:{key}"),
        "messaging.rabbitmq.destination.routing_key" = key,
        "messaging.message.id" = message.id,
        "messaging.message.body.size" = message.body.len() as i64,
    );
    context.set_parent_of(&span);
    span
}

/// Sets the message's parent to the open span, or to `context` where no spans are recorded.
fn with_open_span(message: &Message, context: &TraceContext) -> Message {
    Message { trace: TraceContext::current().or(context), ..message.clone() }
}

fn mark_errors<T>(result: Result<T, QueueError>) -> Result<T, QueueError> {
    result.inspect_err(|_| trace::mark_failed("queue"))
}

/// Opens the span of processing a message, under the span in which it was sent.
pub fn process_span(queue: &dyn Queue, from: &Address, delivery: &Delivery) -> Span {
    let (name, key) = (queue.name(), from.key());
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
    delivery.message.trace.set_parent_of(&span);
    span
}

#[cfg(test)]
mod tests {
    use opentelemetry::global;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::queue::{Lane, MemoryQueue};

    /// A worker may publish the event of one job while it processes another.
    #[tokio::test]
    async fn events_belong_to_the_trace_of_their_job() {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let tracer = SdkTracerProvider::builder().build().tracer("jobs");
        let spans = tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
        let _kept = tracing::subscriber::set_default(spans);

        let memory = MemoryQueue::new();
        let mut events = memory.subscribe();
        let job = "4bf92f3577b34da6a3ce929d0e0e4736";
        let trace = TraceContext::parse(Some(&format!("00-{job}-00f067aa0ba902b7-01")), None);
        let message = Message { trace: trace.clone(), ..Message::new("job".into(), "event", "") };
        let event = Event { topic: "job.succeeded".into(), message: message.clone() };
        async {
            publish_traced(&memory, &event).await.unwrap();
            let published = events.recv().await.unwrap().message.trace;
            assert!(published.traceparent().unwrap().contains(job) && published != trace, "{published:?}");

            let other = TraceContext::current();
            let items = Address::from(Lane::Items);
            assert_eq!(send_traced(&memory, &items, &message).await.unwrap(), Sent::Confirmed);
            let sent = memory.consumer(&items).await.next().await.message.trace;
            let trace_id = |context: &TraceContext| context.traceparent().map(|text| text[3..35].to_owned());
            assert_eq!(trace_id(&sent), trace_id(&other));
        }
        .instrument(info_span!("another job"))
        .await;
    }
}
