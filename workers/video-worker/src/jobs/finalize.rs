//! Collection of the item reports of a job into its results.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jobs::ledger::{ItemRecord, JobRecord, Ledger};
use jobs::state::ItemState;
use jobs::store::{Put, Store, StoreError};
use jobs::time::{now, timestamp};
use jobs::worker::EndedJob;
use jobs::{ItemId, JobId, Stopped};
use serde_json::{Map, Value, json};

use super::retry_policy::store_stopped;
use crate::api::{JobMessage, MANIFEST_SCHEMA, MAX_REPORT_BYTES, job_folder, report_key};

/// Reports read concurrently, and ledger rows per query.
const CONCURRENT_READS: usize = 16;
const ROWS: u32 = 500;

/// Collects the reports of a job.
pub struct Results<'a> {
    pub store: &'a Store,
    pub ledger: &'a Ledger,
}

/// Token sums over the items of a job.
#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    prompt: u64,
    completion: u64,
}

impl Results<'_> {
    /// Writes `results.jsonl` and `errors.jsonl` in the order of the inputs, then `manifest.json`. When the manifest exists, the
    /// job has ended and all other files are complete.
    ///
    /// # Errors
    /// Ledger or store are unavailable.
    pub async fn write(&self, ended: &EndedJob, model: &Value) -> Result<(), Stopped> {
        let job = JobMessage::from_ledger(&ended.record.message).map_err(Stopped::fail)?;
        let folder = job_folder(&job.output, &ended.record.id);
        let tokens = self.gather(ended, &job, &folder).await?;
        let manifest = manifest(ended, &job, model, tokens);
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest serializes");
        let key = format!("{folder}/manifest.json");
        match self.store.put_new(&key, text.into()).await.map_err(|e| store_stopped(&e))? {
            Put::Created | Put::Same => {}
            // An earlier finalization died before the ledger was updated: its manifest differs only in times.
            Put::Other(_) => tracing::info!(job = %ended.record.id, "the manifest already existed"),
        }
        Ok(())
    }

    async fn gather(&self, ended: &EndedJob, job: &JobMessage, folder: &str) -> Result<Tokens, Stopped> {
        let unavailable = |e: StoreError| store_stopped(&e);
        let mut results = self.store.upload(&format!("{folder}/results.jsonl")).map_err(unavailable)?;
        let mut errors = self.store.upload(&format!("{folder}/errors.jsonl")).map_err(unavailable)?;
        let mut tokens = Tokens::default();
        let mut after: Option<(i64, ItemId)> = None;
        loop {
            let from = after.as_ref().map(|(position, id)| (*position, id));
            let rows = self.ledger.items(&ended.record.id, from, ROWS).await?;
            let Some(last) = rows.last() else { break };
            after = Some((last.position, last.id.clone()));
            let reading: Vec<_> = rows.iter().map(|row| self.report(job, &ended.record.id, row)).collect();
            // Written one by one: all of them at once may exceed memory.
            let mut reports = stream::iter(rows.iter()).zip(stream::iter(reading).buffered(CONCURRENT_READS));
            while let Some((row, report)) = reports.next().await {
                let report = report?;
                tokens.add(&report);
                match row.state {
                    ItemState::Succeeded => results.write(line(&report)).await.map_err(unavailable)?,
                    _ => errors
                        .write(line(&error_line(row, &ended.record, &report)))
                        .await
                        .map_err(unavailable)?,
                }
            }
        }
        results.finish().await.map_err(unavailable)?;
        errors.finish().await.map_err(unavailable)?;
        Ok(tokens)
    }

    /// Reads the report of an item; an item without one gets an entry from the ledger.
    async fn report(&self, job: &JobMessage, id: &JobId, row: &ItemRecord) -> Result<Value, Stopped> {
        if row.state == ItemState::Cancelled {
            let content = self.ledger.item_content(id, &row.id).await?;
            let item: Value = serde_json::from_str(&content).unwrap_or_default();
            let mut report = json!({ "item_id": row.id, "input": { "url": item["video"] } });
            if let Some(name) = item.get("custom_id") {
                report["custom_id"] = name.clone();
            }
            return Ok(report);
        }
        let key = report_key(&job.output, id, &row.id);
        let found = self.store.get(&key, MAX_REPORT_BYTES).await.map_err(|e| store_stopped(&e))?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_else(
            || json!({ "job_id": id, "item_id": row.id, "status": row.state, "error": row.failure }),
        ))
    }
}

impl Tokens {
    fn add(&mut self, report: &Value) {
        for answer in report["answers"].as_array().into_iter().flatten() {
            self.prompt += answer["prompt_tokens"].as_u64().unwrap_or(0);
            self.completion += answer["completion_tokens"].as_u64().unwrap_or(0);
        }
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn error_line(row: &ItemRecord, job: &JobRecord, report: &Value) -> Value {
    let mut line = Map::new();
    line.insert("item_id".into(), json!(row.id));
    for name in ["custom_id", "input", "attempt"] {
        if let Some(value) = report.get(name) {
            line.insert(name.into(), value.clone());
        }
    }
    // A cancelled item may have failed before and been due for a retry.
    let why = if row.state == ItemState::Cancelled { &job.failure } else { &row.failure };
    line.insert("error".into(), why.as_ref().map_or_else(|| report["error"].clone(), |why| json!(why)));
    Value::Object(line)
}

fn manifest(ended: &EndedJob, job: &JobMessage, model: &Value, tokens: Tokens) -> Value {
    let EndedJob { record, end, counts } = ended;
    let entered = jobs::state::JobState::ALL.iter().filter_map(|state| {
        Some((format!("{}_at", state.as_str()), json!(timestamp(record.entered_at(*state)?))))
    });
    json!({
        "schema": MANIFEST_SCHEMA,
        "job_id": record.id,
        "idempotency_key": record.key,
        "status": end.state(),
        "error": end.failure(),
        "counts": {
            "total": counts.total, "succeeded": counts.succeeded, "failed": counts.failed, "cancelled": counts.cancelled,
        },
        "listing": if record.is_listed() { "complete" } else { "incomplete" },
        "states": entered.collect::<Map<_, _>>(),
        "ended_at": timestamp(now()),
        "request": JobMessage { job_id: None, idempotency_key: None, ..job.clone() },
        "model": model,
        "tokens": { "prompt": tokens.prompt, "completion": tokens.completion },
        "results": "results.jsonl",
        "errors": "errors.jsonl",
        "software": concat!("flamingo ", env!("CARGO_PKG_VERSION")),
    })
}
