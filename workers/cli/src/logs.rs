//! Log lines on standard error: text, or one JSON object per line.

use std::fmt;
use std::io::{IsTerminal, stderr};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as lines};

use crate::args::UsageError;

/// Environment variable of the filter: `FLAMINGO_LOG=info,lapin=error`.
const FILTER: &str = "FLAMINGO_LOG";
/// Environment variable of the format: `text` or `json`.
const FORMAT: &str = "FLAMINGO_LOG_FORMAT";

/// Layer that writes the log; `default_filter` applies when the environment sets none.
///
/// # Errors
/// The environment names an unknown format.
pub fn layer<S>(default_filter: &str) -> Result<Box<dyn Layer<S> + Send + Sync>, UsageError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(default_filter));
    let log = lines::layer().with_writer(stderr);
    match std::env::var(FORMAT).unwrap_or_default().as_str() {
        // Text lines name the job and the item in their message.
        "" | "text" => {
            let no_spans = spans(false, LevelFilter::TRACE);
            Ok(log.with_ansi(stderr().is_terminal()).with_filter(filter.and(no_spans)).boxed())
        }
        "json" => {
            let log = log.with_ansi(false).fmt_fields(JsonFields::new()).event_format(JsonLines);
            Ok(log.with_filter(filter.or(spans(true, LevelFilter::INFO))).boxed())
        }
        other => Err(UsageError(format!("{FORMAT} is {other:?}, expected text or json"))),
    }
}

/// Whether the metadata is that of a span of this program's crates.
pub fn is_own_span(metadata: &Metadata<'_>) -> bool {
    let ours = ["flamingo", "inference", "jobs", "video_worker"];
    metadata.is_span() && metadata.target().split("::").next().is_some_and(|name| ours.contains(&name))
}

/// Filter for our own spans only (`wanted`), or for everything except them.
fn spans(wanted: bool, most: LevelFilter) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |metadata| is_own_span(metadata) == wanted).with_max_level_hint(most)
}

/// Formats an event as one JSON object: its fields, the ids of job and item, and the ids of trace and span.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let Line(mut line) = line;
        let log_target = line.remove("log.target");
        line.retain(|name, _| !name.starts_with("log."));
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<N>>() else { continue };
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&fields.fields) else { continue };
            for (name, key) in [("job", "job.id"), ("item", "item.id")] {
                if let Some(value) = fields.get(key) {
                    line.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        #[cfg(feature = "service")]
        if let Some((trace, span)) = current_ids() {
            line.insert("trace_id".into(), trace.into());
            line.insert("span_id".into(), span.into());
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        line.insert("timestamp".into(), time.into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("target".into(), log_target.unwrap_or_else(|| event.metadata().target().into()));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Ids of the current trace and span.
#[cfg(feature = "service")]
fn current_ids() -> Option<(String, String)> {
    use opentelemetry::trace::TraceContextExt;

    let context = opentelemetry::Context::current();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
}

/// Fields of an event.
#[derive(Default)]
struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}
