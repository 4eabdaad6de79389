//! Traces: where a piece of work belongs among them, and what is said of it there.
//!
//! A span is one of `tracing`; who exports spans is the program's affair, and so is the propagator that it sets in
//! `opentelemetry::global`. Without both nothing here costs anything, and what others said of their traces is passed on.

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// What W3C Trace Context allows in vendors' words.
const LONGEST_STATE: usize = 512;

/// The span that something belongs under, as W3C Trace Context says it; or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    parent: Option<String>,
    /// Never without a parent.
    state: Option<String>,
}

impl TraceContext {
    /// Reads what may be a stranger's: what is no context is none.
    pub fn read(parent: Option<&str>, state: Option<&str>) -> Self {
        let Some(parent) = parent.filter(|parent| is_parent(parent)) else { return Self::default() };
        let is_state = |state: &&str| {
            (1..=LONGEST_STATE).contains(&state.len()) && state.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        Self { parent: Some(parent.to_owned()), state: state.filter(is_state).map(str::to_owned) }
    }

    /// That of the span that is open here.
    pub fn current() -> Self {
        let mut found = Self::default();
        global::get_text_map_propagator(|propagator| propagator.inject(&mut found));
        found
    }

    /// This one, or else another.
    pub fn or(self, other: &Self) -> Self {
        if self.parent.is_some() { self } else { other.clone() }
    }

    pub fn traceparent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// A span that was just made belongs under it; if it is none, where it would belong anyway.
    pub fn adopt(&self, span: &Span) {
        if self.parent.is_some() {
            let context = global::get_text_map_propagator(|propagator| propagator.extract(self));
            // Refused where no spans are kept.
            let _ = span.set_parent(context);
        }
    }
}

/// `00-{trace}-{span}-{flags}`, all in lower-case hexadecimal.
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

/// Marks the span that is open here as failed, with a stable code: never with a sentence, which may quote anything.
pub fn failed(code: &str) {
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
    fn what_is_no_context_is_none() {
        let long = "a=".to_owned() + &"b".repeat(511);
        for (state, kept) in [(Some("a=1,b=2"), true), (Some(""), false), (Some("ä=1"), false), (None, false)]
        {
            let read = TraceContext::read(Some(PARENT), state);
            assert_eq!((read.traceparent(), read.tracestate()), (Some(PARENT), state.filter(|_| kept)));
        }
        assert_eq!(TraceContext::read(Some(PARENT), Some(&long)).tracestate(), None);
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(TraceContext::read(Some(wrong), Some("a=1")), TraceContext::default(), "{wrong}");
        }
    }

    #[test]
    fn the_first_that_is_one_counts() {
        let (one, none) = (TraceContext::read(Some(PARENT), None), TraceContext::default());
        assert_eq!(none.clone().or(&one), one);
        assert_eq!(one.clone().or(&none), one);
        assert_eq!(none.clone().or(&none), none);
    }
}
