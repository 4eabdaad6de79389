//! Events about jobs, published through the outbox.

use jobs::Failure;
use jobs::queue::{Event, Message};
use jobs::worker::EndedJob;
use serde_json::{Value, json};

use super::VideoService;
use crate::api::{EVENT_SCHEMA, JobMessage, ReplyProperties, job_folder};

impl VideoService {
    /// Returns the event of a finished job.
    pub(super) fn job_event(&self, ended: &EndedJob) -> Event {
        let EndedJob { record, end, counts } = ended;
        let topic = format!("job.{}", end.state().as_str());
        let job = JobMessage::from_ledger(&record.message).ok();
        let output = job.as_ref().map_or("", |job| job.output.as_str());
        let body = json!({
            "schema": EVENT_SCHEMA,
            "event": topic,
            "job_id": record.id,
            "idempotency_key": record.key,
            "status": end.state(),
            "counts": counts,
            "error": end.failure(),
            "manifest": self.outputs.store.url(&format!("{}/manifest.json", job_folder(output, &record.id))),
            "metadata": job.as_ref().map(|job| &job.metadata),
        });
        let (reply_to, correlation_id) =
            job.map(|job| (job.reply_to, job.correlation_id)).unwrap_or_default();
        event(&topic, record.id.to_string(), reply_to, correlation_id, &body)
    }
}

/// Returns the event of a rejected message.
pub(super) fn refusal_event(message: &Message, why: &Failure) -> Event {
    let body = json!({
        "schema": EVENT_SCHEMA,
        "event": "job.refused",
        "message_id": message.id,
        "status": "refused",
        "error": why,
    });
    // A rejected message may still name a reply queue.
    let properties: ReplyProperties = serde_json::from_slice(&message.body).unwrap_or_default();
    let reply_to = message.reply_to.clone().or(properties.reply_to);
    let correlation_id = message.correlation_id.clone().or(properties.correlation_id);
    event("job.refused", message.id.clone(), reply_to, correlation_id, &body)
}

fn event(
    topic: &str,
    id: String,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    body: &Value,
) -> Event {
    let message = Message { reply_to, correlation_id, ..Message::new(id, EVENT_SCHEMA, body.to_string()) };
    Event { topic: topic.into(), message }
}
