//! Trace contexts of messages and jobs.
//!
//! Spans are those of `tracing`. The program decides about exporters and sets the propagator in `opentelemetry::global`.
//! Without them, this module only passes received trace contexts on.

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Maximum length of `tracestate` by W3C Trace Context.
const MAX_STATE: usize = 512;

/// Parent span in the form of W3C Trace Context, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    parent: Option<String>,
    /// `None` without a parent.
    state: Option<String>,
}

impl TraceContext {
    /// Parses untrusted header values. Invalid values give an empty context.
    pub fn parse(parent: Option<&str>, state: Option<&str>) -> Self {
        let Some(parent) = parent.filter(|parent| is_parent(parent)) else { return Self::default() };
        let is_state = |state: &&str| {
            (1..=MAX_STATE).contains(&state.len()) && state.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        Self { parent: Some(parent.to_owned()), state: state.filter(is_state).map(str::to_owned) }
    }

    /// Returns the context of the open span.
    pub fn current() -> Self {
        let mut found = Self::default();
        global::get_text_map_propagator(|propagator| propagator.inject(&mut found));
        found
    }

    /// Returns this context, or `other` if this one is empty.
    pub fn or(self, other: &Self) -> Self {
        if self.parent.is_some() { self } else { other.clone() }
    }

    pub fn traceparent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Sets the parent of a new span. An empty context leaves the span's parent as it is.
    pub fn set_parent_of(&self, span: &Span) {
        if self.parent.is_some() {
            let context = global::get_text_map_propagator(|propagator| propagator.extract(self));
            // Fails where no spans are recorded.
            let _ = span.set_parent(context);
        }
    }
}

/// Checks the form `00-{trace}-{span}-{flags}`, in lower-case hexadecimal.
fn is_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_null = |part: &str| part.bytes().all(|b| b == b'0');
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2])
        && parts.iter().all(|part| is_hex(part))
        && parts[0] != "ff"
        && !is_null(parts[1])
        && !is_null(parts[2])
}

impl Injector for TraceContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            PARENT => self.parent = Some(value),
            STATE if !value.is_empty() => self.state = Some(value),
            _ => (),
        }
    }
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            PARENT => self.traceparent(),
            STATE => self.tracestate(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT, STATE]
    }
}

/// Marks the open span as failed with a stable code. A message is not recorded, because it may quote anything.
pub fn mark_failed(code: &str) {
    let context = Context::current();
    let span = context.span();
    span.set_attribute(KeyValue::new("error.type", code.to_owned()));
    span.set_status(Status::error(""));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn ignores_invalid_contexts() {
        let long = "a=".to_owned() + &"b".repeat(511);
        for (state, kept) in [(Some("a=1,b=2"), true), (Some(""), false), (Some("ä=1"), false), (None, false)]
        {
            let read = TraceContext::parse(Some(PARENT), state);
            assert_eq!((read.traceparent(), read.tracestate()), (Some(PARENT), state.filter(|_| kept)));
        }
        assert_eq!(TraceContext::parse(Some(PARENT), Some(&long)).tracestate(), None);
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(TraceContext::parse(Some(wrong), Some("a=1")), TraceContext::default(), "{wrong}");
        }
    }

    #[test]
    fn prefers_the_first_valid_context() {
        let (one, none) = (TraceContext::parse(Some(PARENT), None), TraceContext::default());
        assert_eq!(none.clone().or(&one), one);
        assert_eq!(one.clone().or(&none), one);
        assert_eq!(none.clone().or(&none), none);
    }
}
