//! Export of spans with OpenTelemetry, configured by its own environment variables. Without a collector, no span is made.

use std::time::Duration;

use anyhow::anyhow;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, global};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::args::UsageError;
use crate::logs::is_own_span;

/// Maximum wait at the end of the program for the collector to accept the last spans.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Span exporter. On drop it sends the last spans, as far as the collector accepts them in time.
pub struct Exporter(SdkTracerProvider);

impl Drop for Exporter {
    fn drop(&mut self) {
        // Unsent spans are lost; jobs are not affected.
        let _ = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Layer that exports our own spans to the collector; `None` without a collector. Spans wait in a bounded queue
/// (`OTEL_BSP_MAX_QUEUE_SIZE`); when it is full, spans are dropped.
///
/// # Errors
/// [`UsageError`]: the collector's URL is invalid.
pub fn layer<S>() -> anyhow::Result<Option<(Exporter, impl Layer<S> + Send + Sync)>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if !is_configured() {
        return Ok(None);
    }
    jobs::tls::install();
    // The original error quotes the URL, which may contain a password.
    let exporter = SpanExporter::builder().with_http().build();
    let exporter = exporter
        .map_err(|_| anyhow!(UsageError("OTEL_EXPORTER_OTLP_ENDPOINT is not a valid HTTP URL".into())))?;
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("flamingo"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_own_span).with_max_level_hint(LevelFilter::INFO));
    Ok(Some((Exporter(provider), layer)))
}

fn is_configured() -> bool {
    let value = |name: &str| std::env::var(name).unwrap_or_default();
    let is_named = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .iter()
        .any(|name| !value(name).is_empty());
    is_named
        && value("OTEL_TRACES_EXPORTER") != "none"
        && !value("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
}

/// Service name and version of this program; the environment may set another name.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::new("service.name")).map(|name| name.to_string()).unwrap_or_default();
    let ours = Resource::builder()
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if name.starts_with("unknown_service") {
        ours.with_service_name("flamingo").build()
    } else {
        ours.build()
    }
}
