//! What the engine says in traces: of what is asked and answered only the size.

use flamingo::generate::{Finish, Generation};
use flamingo::pipeline::Answer;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Array, Context, KeyValue, Value};
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::model::ModelError;

/// The span of a look at so many frames.
pub(super) fn looking(frames: usize) -> Span {
    let frames = frames as i64;
    info_span!("encode", "flamingo.frames" = frames, "error.type" = Empty, otel.status_code = Empty)
}

/// The span of bringing back what was seen of so many frames.
pub(super) fn recalling(frames: usize) -> Span {
    let frames = frames as i64;
    info_span!("recall", "flamingo.frames" = frames, "error.type" = Empty, otel.status_code = Empty)
}

/// The span of an answer, by OpenTelemetry's conventions for generative AI.
pub(super) fn answering(model: &str, generation: &Generation) -> Span {
    info_span!(
        "answer",
        otel.name = format!("generate_content {model}"),
        "gen_ai.operation.name" = "generate_content",
        "gen_ai.provider.name" = "flamingo",
        "gen_ai.request.model" = model,
        "gen_ai.request.max_tokens" = generation.max_new_tokens as i64,
        "gen_ai.output.type" = "text",
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// Until here it has waited for others.
pub(super) fn turn(span: &Span) {
    span.in_scope(|| Context::current().span().add_event("model.turn", vec![]));
}

pub(super) fn failed(span: &Span, error: &ModelError) {
    span.record("error.type", error.code());
    span.record("otel.status_code", "ERROR");
}

pub(super) fn answered(span: &Span, answer: &Result<Answer, ModelError>) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return failed(span, error),
    };
    let finish = match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let tokens = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    span.in_scope(|| {
        Context::current().span().set_attributes([
            KeyValue::new("gen_ai.usage.input_tokens", tokens(answer.prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", tokens(answer.completion_tokens)),
            KeyValue::new("gen_ai.response.finish_reasons", Value::Array(Array::String(vec![finish.into()]))),
        ]);
    });
}
