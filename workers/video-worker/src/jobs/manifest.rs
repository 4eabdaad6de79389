//! The result manifest: the completion marker of a job. Only the manifest of the job counts, not another object in its place.

use flamingo::family::ModelInfo;
use inference::report::AnswerReport;
use jobs::Stopped;
use jobs::ledger::JobRecord;
use jobs::state::JobState;
use jobs::store::{Put, Store, StoreError};
use jobs::time::{Millis, timestamp};
use jobs::worker::EndedJob;
use serde_json::{Map, Value, json};

use super::Outputs;
use super::expand::skipped;
use super::retry_policy::manifest_stopped;
use crate::api::{JobMessage, MANIFEST_SCHEMA, job_folder};

/// Largest manifest, which [`Store::put_new`] reads back too. A request has at most 1 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Error of reading or storing the manifest of a job.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another object is in the place of the manifest.
    #[error("{url}: is not the manifest of this job: {reason}; remove it, or use another id or output")]
    Foreign { url: String, reason: String },
}

/// Token sums over the reports of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    pub completion: u64,
}

impl Tokens {
    pub(super) fn add(&mut self, answers: &[AnswerReport]) {
        for answer in answers {
            self.prompt += answer.prompt_tokens as u64;
            self.completion += answer.completion_tokens as u64;
            if let Some(answer) = &answer.from_captions {
                self.prompt += answer.prompt_tokens as u64;
                self.completion += answer.completion_tokens as u64;
            }
        }
    }
}

impl Outputs {
    /// Checks that the folder of a job has no manifest of another job.
    ///
    /// # Errors
    /// It has one, which no retry helps, or the store is unavailable.
    pub(super) async fn check_manifest(&self, job: &JobRecord) -> Result<(), Stopped> {
        let request = JobMessage::from_ledger(&job.message).map_err(Stopped::fail)?;
        let key = key(&request, job);
        let found = self.store.get(&key, MAX_BYTES).await.map_err(too_large_is_foreign);
        let checked = found.and_then(|found| match found {
            Some(bytes) => check(job, &self.store, &key, &bytes).map(drop),
            None => Ok(()),
        });
        checked.map_err(|error| manifest_stopped(&error))
    }

    /// Writes the manifest of an ended job. An earlier one of the same job stays if it states the same end.
    ///
    /// # Errors
    /// The folder has the manifest of another job, which no retry helps, or the store is unavailable.
    pub(super) async fn write_manifest(
        &self,
        ended: &EndedJob,
        model: &ModelInfo,
        tokens: Tokens,
    ) -> Result<(), Stopped> {
        let job = &ended.record;
        let request = JobMessage::from_ledger(&job.message).map_err(Stopped::fail)?;
        let manifest = manifest(ended, &request, model, tokens, self.ledger.now().await?);
        let written = self.put_manifest(job, &key(&request, job), &manifest).await;
        written.map_err(|error| manifest_stopped(&error))
    }

    async fn put_manifest(&self, job: &JobRecord, key: &str, manifest: &Value) -> Result<(), ManifestError> {
        let text = serde_json::to_vec_pretty(manifest).expect("a manifest serializes");
        let there = match self.store.put_new(key, text.clone().into()).await {
            Ok(Put::Created | Put::Same) => return Ok(()),
            Ok(Put::Other(there)) => check(job, &self.store, key, &there)?,
            Err(error) => return Err(too_large_is_foreign(error)),
        };
        let ends = |manifest: &Value| [&manifest["status"], &manifest["counts"]].map(Value::clone);
        if ends(&there) == ends(manifest) {
            // A finalization died before the ledger was updated: its manifest differs only in times.
            tracing::info!(job = %job.id, "the manifest already existed");
            return Ok(());
        }
        // It belongs to the results of an earlier finalization, which this one has replaced.
        tracing::warn!(job = %job.id, earlier = %there["status"], "the manifest is replaced");
        Ok(self.store.put(key, text.into()).await?)
    }
}

/// Returns the manifest if it is that of the job: id and request are the same. A manifest of the version before has no hash of
/// the request, so its id decides.
fn check(job: &JobRecord, store: &Store, key: &str, bytes: &[u8]) -> Result<Value, ManifestError> {
    let foreign = |reason: String| ManifestError::Foreign { url: store.url(key), reason };
    let manifest: Value = serde_json::from_slice(bytes).map_err(|error| foreign(error.to_string()))?;
    if manifest["schema"] != MANIFEST_SCHEMA {
        return Err(foreign(format!("its schema is {}", manifest["schema"])));
    }
    if manifest["job_id"] != job.id.as_str() {
        return Err(foreign(format!("it is the manifest of {}", manifest["job_id"])));
    }
    match manifest.get("request_sha256") {
        Some(hash) if *hash != *job.request_sha256 => Err(foreign("it answers another request".into())),
        Some(_) | None => Ok(manifest),
    }
}

fn key(request: &JobMessage, job: &JobRecord) -> String {
    format!("{}/manifest.json", job_folder(&request.output, &job.id))
}

fn too_large_is_foreign(error: StoreError) -> ManifestError {
    match error {
        StoreError::TooLarge { url, limit } => {
            ManifestError::Foreign { url, reason: format!("it has more than {limit} bytes") }
        }
        other => ManifestError::Store(other),
    }
}

fn manifest(
    ended: &EndedJob,
    request: &JobMessage,
    model: &ModelInfo,
    tokens: Tokens,
    ended_at: Millis,
) -> Value {
    let EndedJob { record, end, counts } = ended;
    let entered = JobState::ALL.iter().filter_map(|state| {
        Some((format!("{}_at", state.as_str()), json!(timestamp(record.entered_at(*state)?))))
    });
    json!({
        "schema": MANIFEST_SCHEMA,
        "job_id": record.id,
        "idempotency_key": record.key,
        "request_sha256": record.request_sha256,
        "status": end.state(),
        "error": end.failure(),
        "counts": {
            "total": counts.total, "succeeded": counts.succeeded, "failed": counts.failed, "cancelled": counts.cancelled,
        },
        "skipped": skipped(record),
        "listing": if record.is_listed() { "complete" } else { "incomplete" },
        "states": entered.collect::<Map<_, _>>(),
        "ended_at": timestamp(ended_at),
        "request": JobMessage { job_id: None, idempotency_key: None, ..request.clone() },
        "model": model,
        "tokens": { "prompt": tokens.prompt, "completion": tokens.completion },
        "results": "results.jsonl",
        "errors": "errors.jsonl",
        "software": concat!("flamingo ", env!("CARGO_PKG_VERSION")),
    })
}
