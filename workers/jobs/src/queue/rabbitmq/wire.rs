//! Conversion of messages to AMQP properties and headers, and back. Received messages are untrusted: conversion never fails.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::Message;
use crate::Failure;
use crate::trace::TraceContext;

/// Number of retries of a message.
const ATTEMPT: &str = "x-attempt";
/// Number of redeliveries by the broker.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Replace the properties of the same names, which hold at most 255 bytes.
const LONG_ID: &str = "x-message-id";
const LONG_CORRELATION_ID: &str = "x-correlation-id";

/// W3C Trace Context.
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";

/// Reason of a dead letter, given by the worker that sent it.
const REASON_CODE: &str = "x-reason-code";
const REASON: &str = "x-reason";

/// Maximum characters of a reason in the header.
const MAX_REASON: usize = 500;

const PERSISTENT: u8 = 2;

/// Returns the AMQP properties of a message.
pub(super) fn properties(message: &Message, attempt: u32) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT);
    match ShortString::try_new(message.id.as_str()) {
        Ok(id) => properties = properties.with_message_id(id),
        Err(_) => put(&mut headers, LONG_ID, &message.id),
    }
    if let Ok(kind) = ShortString::try_new(message.kind.as_str()) {
        properties = properties.with_type(kind);
    }
    // AMQP allows no longer queue name.
    if let Some(Ok(queue)) = message.reply_to.as_deref().map(ShortString::try_new) {
        properties = properties.with_reply_to(queue);
    }
    match message.correlation_id.as_deref().map(|id| (id, ShortString::try_new(id))) {
        Some((_, Ok(id))) => properties = properties.with_correlation_id(id),
        Some((id, Err(_))) => put(&mut headers, LONG_CORRELATION_ID, id),
        None => (),
    }
    for (name, value) in
        [(TRACE_PARENT, message.trace.traceparent()), (TRACE_STATE, message.trace.tracestate())]
    {
        if let Some(value) = value {
            put(&mut headers, name, value);
        }
    }
    if attempt > 0 {
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(attempt.into()));
    }
    properties.with_headers(headers)
}

/// Returns the AMQP properties of a dead letter from `lane`.
pub(super) fn dead_properties(
    message: &Message,
    attempt: u32,
    lane: &str,
    failure: &Failure,
) -> BasicProperties {
    let properties = properties(message, attempt);
    let mut headers = properties.headers().clone().unwrap_or_default();
    let reason: String = failure.message.chars().take(MAX_REASON).collect();
    put(&mut headers, REASON_CODE, &failure.code);
    put(&mut headers, REASON, &reason);
    put(&mut headers, "x-first-lane", lane);
    properties.with_headers(headers)
}

/// Returns the reason of a dead letter: the worker's, or the broker's if no worker sent it there.
pub(super) fn reason(delivery: &Delivery) -> Failure {
    let text = |name: &str| text_header(&delivery.properties, name);
    // Newest first: a message that waited in a retry tier has an older entry for expiring there.
    let of_broker = || match header(&delivery.properties, "x-death") {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => match death.inner().get("reason") {
                Some(AMQPValue::LongString(reason)) => Some(reason.to_string()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    let code = text(REASON_CODE).or_else(of_broker).unwrap_or_else(|| "unknown".to_owned());
    let message =
        text(REASON).unwrap_or_else(|| "the broker dead-lettered it: it may crash its workers".to_owned());
    Failure::new(code, message)
}

fn put(headers: &mut FieldTable, name: &str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(LongString::from(text)));
}

/// Returns the delivered message. Missing properties become empty; the parser of the message checks them.
pub(super) fn message(delivery: &mut Delivery) -> Message {
    let body = Bytes::from(std::mem::take(&mut delivery.data));
    let properties = &delivery.properties;
    let text = |property: &Option<ShortString>| property.as_ref().map(ShortString::to_string);
    Message {
        id: text_header(properties, LONG_ID).or_else(|| text(properties.message_id())).unwrap_or_default(),
        kind: text(properties.kind()).unwrap_or_default(),
        body,
        reply_to: text(properties.reply_to()),
        correlation_id: text_header(properties, LONG_CORRELATION_ID)
            .or_else(|| text(properties.correlation_id())),
        trace: TraceContext::parse(
            text_header(properties, TRACE_PARENT).as_deref(),
            text_header(properties, TRACE_STATE).as_deref(),
        ),
    }
}

/// Returns the number of earlier retries.
pub(super) fn attempt(delivery: &Delivery) -> u32 {
    number_header(&delivery.properties, ATTEMPT).unwrap_or(0)
}

/// Returns the number of earlier deliveries. A first redelivery may carry only the flag.
pub(super) fn redeliveries(delivery: &Delivery) -> u32 {
    number_header(&delivery.properties, DELIVERY_COUNT).unwrap_or(u32::from(delivery.redelivered))
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn number_header(properties: &BasicProperties, name: &str) -> Option<u32> {
    let number = match header(properties, name)? {
        AMQPValue::ShortShortInt(number) => i64::from(*number),
        AMQPValue::ShortShortUInt(number) => i64::from(*number),
        AMQPValue::ShortInt(number) => i64::from(*number),
        AMQPValue::ShortUInt(number) => i64::from(*number),
        AMQPValue::LongInt(number) => i64::from(*number),
        AMQPValue::LongUInt(number) => i64::from(*number),
        AMQPValue::LongLongInt(number) => *number,
        _ => return None,
    };
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(properties: BasicProperties, body: &[u8]) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "items".into(), false, body.to_vec());
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn message_round_trips() {
        for long in [3, 255, 256, 400] {
            let sent = Message {
                id: "i".repeat(long),
                kind: "flamingo.job/1".to_owned(),
                body: Bytes::from_static(b"{}"),
                reply_to: Some("answers".to_owned()),
                correlation_id: Some("ä".repeat(long)),
                trace: crate::queue::contract::trace(),
            };
            let mut delivery = delivered(properties(&sent, 7), b"{}");
            assert_eq!(attempt(&delivery), 7);
            assert_eq!(message(&mut delivery), sent);
        }
    }

    #[test]
    fn invalid_properties_are_ignored() {
        let mut headers = FieldTable::default();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(-4));
        headers.insert(ATTEMPT.into(), AMQPValue::Boolean(true));
        headers.insert(TRACE_PARENT.into(), AMQPValue::LongString(LongString::from("00-1-2-3")));
        headers.insert(LONG_ID.into(), AMQPValue::LongString(LongString::from(vec![0xff, 0xfe])));
        let mut delivery = delivered(BasicProperties::default().with_headers(headers), b"\xff");
        assert_eq!((redeliveries(&delivery), attempt(&delivery)), (0, 0));
        let read = message(&mut delivery);
        assert_eq!((read.id.as_str(), read.kind.as_str()), ("\u{fffd}\u{fffd}", ""));
        assert_eq!((&read.body[..], read.trace), (&b"\xff"[..], TraceContext::default()));
    }

    #[test]
    fn reason_is_cut_between_characters() {
        let sent = Message {
            id: "a".to_owned(),
            kind: String::new(),
            body: Bytes::new(),
            reply_to: None,
            correlation_id: None,
            trace: TraceContext::default(),
        };
        let properties = dead_properties(&sent, 0, "items", &Failure::new("bad", "ä".repeat(900)));
        assert_eq!(
            text_header(&properties, "x-reason").map(|reason| reason.chars().count()),
            Some(MAX_REASON)
        );
    }
}
