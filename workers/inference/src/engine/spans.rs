//! Trace spans of the engine. They carry sizes only, no prompt and no answer.

use flamingo::generate::{Finish, Output};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Array, Context, KeyValue, Value};
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::model::ModelError;

/// Returns the span of encoding `frames` frames.
pub(super) fn encode(frames: usize) -> Span {
    let frames = frames as i64;
    info_span!("encode", "flamingo.frames" = frames, "error.type" = Empty, otel.status_code = Empty)
}

/// Returns the span of restoring the visual tokens of `frames` frames.
pub(super) fn restore(frames: usize) -> Span {
    let frames = frames as i64;
    info_span!("restore", "flamingo.frames" = frames, "error.type" = Empty, otel.status_code = Empty)
}

/// Returns the span of an answer of at most `new_tokens` tokens, with the attributes of OpenTelemetry's conventions for
/// generative AI.
pub(super) fn generate(model: &str, new_tokens: usize) -> Span {
    info_span!(
        "answer",
        otel.name = format!("generate_content {model}"),
        "gen_ai.operation.name" = "generate_content",
        "gen_ai.provider.name" = "flamingo",
        "gen_ai.request.model" = model,
        "gen_ai.request.max_tokens" = new_tokens as i64,
        "gen_ai.output.type" = "text",
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// Records that the request has left the queue.
pub(super) fn scheduled(span: &Span) {
    span.in_scope(|| Context::current().span().add_event("model.scheduled", vec![]));
}

pub(super) fn failed(span: &Span, error: &ModelError) {
    span.record("error.type", error.code());
    span.record("otel.status_code", "ERROR");
}

/// Records the sizes of an output after a prompt of `prompt_tokens` tokens.
pub(super) fn record_output(span: &Span, prompt_tokens: usize, output: &Result<Output, ModelError>) {
    let (finish, new_tokens) = match output {
        Ok(Output::Completion(completion)) => (completion.finish, completion.ids.len()),
        Ok(Output::LogLikelihoods(_)) => (Finish::Stop, 0),
        Err(error) => return failed(span, error),
    };
    let finish = match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let tokens = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    span.in_scope(|| {
        Context::current().span().set_attributes([
            KeyValue::new("gen_ai.usage.input_tokens", tokens(prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", tokens(new_tokens)),
            KeyValue::new("gen_ai.response.finish_reasons", Value::Array(Array::String(vec![finish.into()]))),
        ]);
    });
}
