//! Collection of the item reports of a job into its results.

use bytes::Bytes;
use flamingo::family::ModelInfo;
use futures_util::{StreamExt, stream};
use jobs::ledger::{ItemRecord, JobRecord};
use jobs::state::ItemState;
use jobs::store::{Put, StoreError};
use jobs::time::{Millis, timestamp};
use jobs::worker::EndedJob;
use jobs::{ItemId, JobId, Stopped};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Outputs;
use super::expand::skipped;
use super::reports::read_valid_report;
use super::retry_policy::store_stopped;
use crate::api::{
    ErrorLine, InputInfo, Item, ItemReport, JobMessage, MANIFEST_SCHEMA, MAX_REPORT_BYTES, job_folder,
    json as to_json, report_key,
};

/// Reports read concurrently, and ledger rows per query.
const CONCURRENT_READS: usize = 16;
const ROWS: u32 = 500;

/// Token sums over the items of a job.
#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    prompt: u64,
    completion: u64,
}

impl Outputs {
    /// Writes `results.jsonl` and `errors.jsonl` in the order of the inputs, then `manifest.json`. When the manifest exists, the
    /// job has ended and all other files are complete.
    ///
    /// # Errors
    /// Ledger or store are unavailable.
    pub(super) async fn write_results(&self, ended: &EndedJob, model: &ModelInfo) -> Result<(), Stopped> {
        let job = JobMessage::from_ledger(&ended.record.message).map_err(Stopped::fail)?;
        let folder = job_folder(&job.output, &ended.record.id);
        let tokens = self.gather(ended, &job, &folder).await?;
        let manifest = manifest(ended, &job, model, tokens, self.ledger.now().await?);
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
                report.iter().for_each(|report| tokens.add(report));
                let written = match row.state {
                    ItemState::Succeeded => {
                        results.write(result_line(&ended.record.id, row, report.as_ref())).await
                    }
                    ItemState::Cancelled => {
                        errors.write(self.cancelled_line(&ended.record, row).await?).await
                    }
                    _ => errors.write(failed_line(row, report.as_ref())).await,
                };
                written.map_err(unavailable)?;
            }
        }
        results.finish().await.map_err(unavailable)?;
        errors.finish().await.map_err(unavailable)?;
        Ok(tokens)
    }

    /// Reads the report of an item.
    async fn report(
        &self,
        job: &JobMessage,
        id: &JobId,
        row: &ItemRecord,
    ) -> Result<Option<ItemReport>, Stopped> {
        // A cancelled item may have a report that was written after its end.
        if row.state == ItemState::Cancelled {
            return Ok(None);
        }
        let key = report_key(&job.output, id, &row.id);
        read_valid_report(&self.store, &key, MAX_REPORT_BYTES).await.map_err(|e| store_stopped(&e))
    }

    /// Returns the line of a cancelled item. It may have failed before and been due for a retry, so its error is that of the
    /// job.
    async fn cancelled_line(&self, job: &JobRecord, row: &ItemRecord) -> Result<Bytes, Stopped> {
        let content = self.ledger.item_content(&job.id, &row.id).await?;
        let item = Item::parse(&content).ok();
        Ok(json_line(&ErrorLine {
            item_id: &row.id,
            custom_id: item.as_ref().and_then(|item| item.custom_id.as_deref()),
            input: item.as_ref().map(|item| InputInfo { url: item.video.clone(), bytes: None, etag: None }),
            attempt: None,
            error: job.failure.as_ref(),
        }))
    }
}

impl Tokens {
    fn add(&mut self, report: &ItemReport) {
        for answer in report.body.answers() {
            self.prompt += answer.prompt_tokens as u64;
            self.completion += answer.completion_tokens as u64;
        }
    }
}

/// Returns the line of a succeeded item: its report, or the entry of the ledger if the report cannot be read.
fn result_line(job: &JobId, row: &ItemRecord, report: Option<&ItemReport>) -> Bytes {
    match report {
        Some(report) => json_line(report),
        None => json_line(&json!({ "job_id": job, "item_id": row.id, "status": row.state })),
    }
}

fn failed_line(row: &ItemRecord, report: Option<&ItemReport>) -> Bytes {
    json_line(&ErrorLine {
        item_id: &row.id,
        custom_id: report.and_then(|report| report.custom_id.as_deref()),
        input: report.map(|report| report.input.clone()),
        attempt: report.map(|report| report.attempt),
        error: row.failure.as_ref(),
    })
}

fn json_line(value: &impl Serialize) -> Bytes {
    Bytes::from(to_json(value) + "\n")
}

fn manifest(
    ended: &EndedJob,
    job: &JobMessage,
    model: &ModelInfo,
    tokens: Tokens,
    ended_at: Millis,
) -> Value {
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
        "skipped": skipped(record),
        "listing": if record.is_listed() { "complete" } else { "incomplete" },
        "states": entered.collect::<Map<_, _>>(),
        "ended_at": timestamp(ended_at),
        "request": JobMessage { job_id: None, idempotency_key: None, ..job.clone() },
        "model": model,
        "tokens": { "prompt": tokens.prompt, "completion": tokens.completion },
        "results": "results.jsonl",
        "errors": "errors.jsonl",
        "software": concat!("flamingo ", env!("CARGO_PKG_VERSION")),
    })
}
