//! Wire types: messages of the queue, manifests, reports and events. Versioned JSON, untrusted until parsed.

use jobs::Failure;
use jobs::worker::Refusal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod event;
mod item;
mod job;
mod manifest;
mod report;
mod unknown;
mod validate;

#[cfg(test)]
mod tests;

pub use event::{EVENT_SCHEMA, ReplyProperties};
pub use inference::context::Priority;
pub use item::{ITEM_SCHEMA, ItemMessage};
pub use job::{Input, JOB_SCHEMA, JobMessage};
pub use manifest::{MANIFEST_SCHEMA, ManifestLine};
pub use report::{InputInfo, ItemReport, MAX_REPORT_BYTES, end_of, job_folder, report_key, sheet_key};
pub use unknown::NoUnknownFields;
pub use validate::matcher;

/// Largest message in bytes; long lists of videos go into manifests.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Parses a message of one schema.
fn parse<T: DeserializeOwned>(body: &[u8], schema: &str) -> Result<T, Refusal> {
    let permanent = |code: &str, text: String| Refusal::Permanent(Failure::new(code, text));
    if body.len() > MAX_MESSAGE_BYTES {
        let text = format!("the message has {} bytes, {MAX_MESSAGE_BYTES} are allowed", body.len());
        return Err(permanent("message_too_large", text));
    }
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let malformed =
        |e: serde_json::Error| permanent("malformed_message", format!("not a valid {schema} message: {e}"));
    let head: Head = serde_json::from_slice(body).map_err(malformed)?;
    if head.schema != schema {
        let found: String = head.schema.chars().take(60).collect();
        let text = format!("schema {found:?}, this build reads {schema:?}");
        return Err(if is_newer(&found, schema) {
            Refusal::NewerSchema(Failure::new("newer_schema", text))
        } else {
            permanent("unknown_schema", text)
        });
    }
    serde_json::from_slice(body).map_err(malformed)
}

/// Whether the schema is ours in a higher version: during a rolling upgrade a newer build will read it.
fn is_newer(found: &str, ours: &str) -> bool {
    let version = |schema: &str| {
        let (name, version) = schema.rsplit_once('/')?;
        Some((name.to_owned(), version.parse::<u32>().ok()?))
    };
    matches!((version(found), version(ours)), (Some((a, n)), Some((b, m))) if a == b && n > m)
}

/// Returns the SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Serializes our own types, which cannot fail: their keys are strings.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a message serializes")
}
