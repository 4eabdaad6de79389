//! What the program says about itself while it works, on standard error: text for people, or one JSON object per line.

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

use crate::args::BadUse;

/// Which lines: `FLAMINGO_LOG=info,lapin=error`.
const WHICH: &str = "FLAMINGO_LOG";
/// In which form: `text` or `json`.
const FORMAT: &str = "FLAMINGO_LOG_FORMAT";

/// Writes the log; `usual` is what is logged when nobody says otherwise.
///
/// # Errors
/// There is no such form.
pub fn layer<S>(usual: &str) -> Result<Box<dyn Layer<S> + Send + Sync>, BadUse>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let which = EnvFilter::try_from_env(WHICH).unwrap_or_else(|_| EnvFilter::new(usual));
    let log = lines::layer().with_writer(stderr);
    match std::env::var(FORMAT).unwrap_or_default().as_str() {
        // Lines for people name the job and the item themselves.
        "" | "text" => {
            let no_spans = spans(false, LevelFilter::TRACE);
            Ok(log.with_ansi(stderr().is_terminal()).with_filter(which.and(no_spans)).boxed())
        }
        "json" => {
            let log = log.with_ansi(false).fmt_fields(JsonFields::new()).event_format(JsonLines);
            Ok(log.with_filter(which.or(spans(true, LevelFilter::INFO))).boxed())
        }
        other => Err(BadUse(format!("{FORMAT} is {other:?}: a log is text or json"))),
    }
}

/// Whether it is a span of this program's own.
pub fn is_span(metadata: &Metadata<'_>) -> bool {
    let ours = ["flamingo", "inference", "jobs", "video_worker"];
    metadata.is_span() && metadata.target().split("::").next().is_some_and(|name| ours.contains(&name))
}

/// Nothing but our spans, or all but them.
fn spans(wanted: bool, most: LevelFilter) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |metadata| is_span(metadata) == wanted).with_max_level_hint(most)
}

/// One JSON object per event: its fields, which job and item it is about, and where it belongs among traces.
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
        let of_log = line.remove("log.target");
        line.retain(|name, _| !name.starts_with("log."));
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(said) = extensions.get::<FormattedFields<N>>() else { continue };
            let Ok(said) = serde_json::from_str::<Map<String, Value>>(&said.fields) else { continue };
            for (name, key) in [("job", "job.id"), ("item", "item.id")] {
                if let Some(value) = said.get(key) {
                    line.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        #[cfg(feature = "service")]
        if let Some((trace, span)) = crate::traces::here() {
            line.insert("trace_id".into(), trace.into());
            line.insert("span_id".into(), span.into());
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        line.insert("timestamp".into(), time.into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("target".into(), of_log.unwrap_or_else(|| event.metadata().target().into()));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields of an event.
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
