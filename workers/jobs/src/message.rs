//! Bodies of job and item messages: JSON with a schema version, untrusted until parsed.
//!
//! A job message is the whole job, because anyone may send one without access to the ledger. An item message holds only ids
//! and the lane; the content of the item is in the ledger.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::queue::{Lane, Message};
use crate::trace::TraceContext;
use crate::{Failure, ItemId, JobId, Stopped};

/// Maximum bytes of a message.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Body of an item message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    schema: String,
    job_id: JobId,
    item_id: ItemId,
    lane: Lane,
}

/// Builds the message about a job.
pub fn job_message(schema: &str, job: &JobId, body: &str, trace: &TraceContext) -> Message {
    Message { trace: trace.clone(), ..Message::new(job.to_string(), schema, body.to_owned()) }
}

/// Builds the message about an item.
pub fn item_message(schema: &str, job: &JobId, item: &ItemId, lane: Lane, trace: &TraceContext) -> Message {
    let body = ItemBody { schema: schema.to_owned(), job_id: job.clone(), item_id: item.clone(), lane };
    let body = serde_json::to_vec(&body).expect("ids serialise to JSON");
    Message { trace: trace.clone(), ..Message::new(format!("{job}/{item}"), schema, body) }
}

/// Parses an item message of the given schema, or of the previous one, whose bodies are whole items with both ids.
///
/// # Errors
/// As [`parse`].
pub fn parse_item_message(
    message: &Message,
    schema: &str,
    previous_schema: Option<&str>,
) -> Result<(JobId, ItemId), Stopped> {
    #[derive(Deserialize)]
    struct PreviousBody {
        job_id: JobId,
        item_id: ItemId,
    }
    let found = schema_of(&message.body, schema)?;
    if previous_schema == Some(found.as_str()) {
        let PreviousBody { job_id, item_id } = parse_as(&message.body, &found)?;
        return Ok((job_id, item_id));
    }
    check_schema(&found, schema)?;
    let ItemBody { job_id, item_id, .. } = parse_as(&message.body, schema)?;
    Ok((job_id, item_id))
}

/// Parses a body of the given schema.
///
/// # Errors
/// The body is too large, malformed or of another schema: permanent. Its schema is a newer version of the same one: to be
/// retried at no cost, because a newer build may be about to start.
pub fn parse<T: DeserializeOwned>(body: &[u8], schema: &str) -> Result<T, Stopped> {
    check_schema(&schema_of(body, schema)?, schema)?;
    parse_as(body, schema)
}

fn schema_of(body: &[u8], expected: &str) -> Result<String, Stopped> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    if body.len() > MAX_MESSAGE {
        let text = format!("the message has {} bytes, {MAX_MESSAGE} are allowed", body.len());
        return Err(fail("message_too_large", text));
    }
    let head: Head = parse_as(body, expected)?;
    Ok(head.schema.chars().take(60).collect())
}

fn check_schema(found: &str, schema: &str) -> Result<(), Stopped> {
    let text = format!("schema {found:?}, this build reads {schema:?}");
    if found == schema {
        Ok(())
    } else if is_newer(found, schema) {
        Err(Stopped::retry_free(Failure::new("newer_schema", text)))
    } else {
        Err(fail("unknown_schema", text))
    }
}

fn parse_as<T: DeserializeOwned>(body: &[u8], schema: &str) -> Result<T, Stopped> {
    serde_json::from_slice(body)
        .map_err(|e| fail("malformed_message", format!("not a valid {schema} message: {e}")))
}

fn fail(code: &str, text: String) -> Stopped {
    Stopped::fail(Failure::new(code, text))
}

/// Returns whether `found` is the schema `ours` in a later version.
pub fn is_newer(found: &str, ours: &str) -> bool {
    let version = |schema: &str| {
        let (name, version) = schema.rsplit_once('/')?;
        Some((name.to_owned(), version.parse::<u32>().ok()?))
    };
    matches!((version(found), version(ours)), (Some((a, n)), Some((b, m))) if a == b && n > m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disposition, RetryCost};

    fn ids() -> (JobId, ItemId) {
        (JobId::try_from("job".to_owned()).unwrap(), ItemId::try_from("clip.mp4".to_owned()).unwrap())
    }

    fn received(body: &str) -> Message {
        Message::new("job/clip.mp4".into(), "any", body.to_owned())
    }

    fn check(body: &str, expected: (Disposition, &str)) {
        let stopped = parse_item_message(&received(body), "test.item/2", Some("test.item/1")).unwrap_err();
        assert_eq!((stopped.disposition, stopped.failure.code.as_str()), expected, "{body}");
    }

    #[test]
    fn item_message_holds_ids_and_lane_only() {
        let (job, item) = ids();
        let message = item_message("test.item/2", &job, &item, Lane::Urgent, &TraceContext::default());
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let expected = serde_json::json!({
            "schema": "test.item/2", "job_id": "job", "item_id": "clip.mp4", "lane": "urgent",
        });
        assert_eq!(
            (message.id.as_str(), message.kind.as_str(), body),
            ("job/clip.mp4", "test.item/2", expected)
        );
        let parsed = parse_item_message(&message, "test.item/2", Some("test.item/1"));
        assert_eq!(parsed, Ok((job, item)));
    }

    #[test]
    fn accepts_whole_items_of_the_previous_version() {
        let body = r#"{"schema": "test.item/1", "job_id": "job", "item_id": "clip.mp4", "video": "s3://b/clip.mp4"}"#;
        let message = received(body);
        assert_eq!(parse_item_message(&message, "test.item/2", Some("test.item/1")), Ok(ids()));
        check(r#"{"schema": "test.item/1", "job_id": "job"}"#, (Disposition::Fail, "malformed_message"));
        let unknown = parse_item_message(&message, "test.item/2", None).unwrap_err();
        assert_eq!(unknown.failure.code, "unknown_schema");
    }

    /// A build that reads version 1 only sees version 2 as a newer schema, as builds before version 2 did.
    #[test]
    fn newer_schemas_are_retried_at_no_cost() {
        let free = Disposition::Retry(RetryCost::Free);
        check(r#"{"schema": "test.item/3", "more": 1}"#, (free, "newer_schema"));
        let (job, item) = ids();
        let message = item_message("test.item/2", &job, &item, Lane::Items, &TraceContext::default());
        let stopped = parse_item_message(&message, "test.item/1", None).unwrap_err();
        assert_eq!((stopped.disposition, stopped.failure.code.as_str()), (free, "newer_schema"));
    }

    #[test]
    fn rejects_malformed_and_unknown_messages() {
        for schema in ["test.item/0", "test.item", "other.item/3", "test.job/2"] {
            check(&format!(r#"{{"schema": "{schema}"}}"#), (Disposition::Fail, "unknown_schema"));
        }
        let unknown_field =
            r#"{"schema": "test.item/2", "job_id": "j", "item_id": "i", "lane": "items", "x": 1}"#;
        for body in ["", "{", "[]", r#"{"schema": 1}"#, unknown_field] {
            check(body, (Disposition::Fail, "malformed_message"));
        }
        check(&"x".repeat(MAX_MESSAGE + 1), (Disposition::Fail, "message_too_large"));
    }
}
