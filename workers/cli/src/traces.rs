//! Spans, to where OpenTelemetry's own variables say: nothing is traced unless they name a collector.

use std::time::Duration;

use anyhow::anyhow;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry::{Context, Key, global};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::args::BadUse;
use crate::logs::is_span;

/// How long the end of the program waits for a collector to take the last spans.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whoever sends the spans. Dropped, it sends the last ones, if the collector takes them in time.
pub struct Exporter(SdkTracerProvider);

impl Drop for Exporter {
    fn drop(&mut self) {
        // What was not sent is lost, which no job notices.
        let _ = self.0.shutdown_with_timeout(PATIENCE);
    }
}

/// Sends our spans, and no other, to the collector; `None`: there is none. They wait in a queue of limited length
/// (`OTEL_BSP_MAX_QUEUE_SIZE`); what finds it full is dropped.
///
/// # Errors
/// What should be the collector's URL is none.
pub fn layer<S>() -> anyhow::Result<Option<(Exporter, impl Layer<S> + Send + Sync)>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if !is_wanted() {
        return Ok(None);
    }
    // The error would quote the URL, and with it what may be a password.
    let exporter = SpanExporter::builder().with_http().build();
    let exporter = exporter.map_err(|_| {
        anyhow!(BadUse("OTEL_EXPORTER_OTLP_ENDPOINT is no URL that traces can be sent to over HTTP".into()))
    })?;
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("flamingo"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_span).with_max_level_hint(LevelFilter::INFO));
    Ok(Some((Exporter(provider), layer)))
}

fn is_wanted() -> bool {
    let says = |name: &str| std::env::var(name).unwrap_or_default();
    let is_named = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .iter()
        .any(|name| !says(name).is_empty());
    is_named
        && says("OTEL_TRACES_EXPORTER") != "none"
        && !says("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
}

/// This program, unless the environment calls it otherwise.
fn resource() -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&Key::new("service.name")).map(|name| name.to_string()).unwrap_or_default();
    let ours = Resource::builder()
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if name.starts_with("unknown_service") {
        ours.with_service_name("flamingo").build()
    } else {
        ours.build()
    }
}

/// The trace and the span that are open here.
pub fn here() -> Option<(String, String)> {
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
}
