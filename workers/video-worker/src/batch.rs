//! A job's inputs become items, and the items' reports become results.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jobs::job::NewItem;
use jobs::ledger::{ItemRecord, JobRecord, Ledger, LedgerError};
use jobs::state::{ItemEnd, ItemState};
use jobs::store::{Put, Store, StoreError};
use jobs::time::{now, timestamp};
use jobs::worker::{EndedJob, Page, Trouble};
use jobs::{Failure, ItemId, JobId};
use serde_json::{Map, Value, json};

use crate::fetch::{Found, Inputs};
use crate::location::Location;
use crate::message::{Input, ItemMessage, JobMessage, ManifestLine, json as to_json, matcher, sha256};
use crate::outcome::{store_trouble, trouble};

/// The version of a job's manifest.
pub const MANIFEST_SCHEMA: &str = "flamingo.manifest/1";
/// Bytes of one report.
pub const LONGEST_REPORT: u64 = 64 << 20;
/// Reports that are read at once, and rows of the ledger.
const READING: usize = 16;
const ROWS: u32 = 500;
/// Items of a page whose list has to be read whole each time.
const LISTED: usize = 10_000;

/// The folder of a job's results.
pub fn folder(output: &str, job: &JobId) -> String {
    if output.is_empty() { job.to_string() } else { format!("{output}/{job}") }
}

/// Where the report of an item stands.
pub fn report_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.json", folder(output, job))
}

/// Where the picture of an item's frames stands, if there is one.
pub fn sheet_key(output: &str, job: &JobId, item: &ItemId) -> String {
    format!("{}/items/{item}.jpg", folder(output, job))
}

// ---- inputs -> items ----

/// What lists inputs.
pub struct Listing<'a> {
    pub inputs: &'a Inputs,
    pub ledger: &'a Ledger,
    pub page: usize,
    pub max_manifest_bytes: u64,
}

impl Listing<'_> {
    /// The items of a job from `cursor` on.
    ///
    /// # Errors
    /// The inputs cannot be listed.
    pub async fn page(&self, record: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble> {
        let job = JobMessage::recall(&record.message).map_err(Trouble::Permanent)?;
        match &job.input {
            Input::Video(url) => self.list(&job, record, std::slice::from_ref(url), cursor),
            Input::Videos(urls) => self.list(&job, record, urls, cursor),
            Input::Prefix { url, glob } => self.prefix(&job, record, url, glob, cursor).await,
            Input::Manifest(url) => self.manifest(&job, record, url, cursor).await,
            Input::UnfinishedOf(earlier) => self.unfinished(&job, record, earlier, cursor).await,
        }
    }

    /// The videos of an earlier job that have no answers, each with what it was asked there. Of a video that has changed
    /// since, the version that is there now.
    async fn unfinished(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        earlier: &JobId,
        cursor: Option<&str>,
    ) -> Result<Page, Trouble> {
        let away = |e: LedgerError| Trouble::Transient(Failure::new("ledger_unavailable", e.to_string()));
        match self.ledger.job(earlier).await.map_err(away)? {
            Some(earlier) if !earlier.is_listed() => {
                return Err(fatal(
                    "not_listed",
                    format!("{}: ended before all of its inputs were known", earlier.id),
                ));
            }
            Some(earlier) if earlier.state.is_end() => {}
            Some(_) => return Err(fatal("not_ended", format!("{earlier}: this job has not ended yet"))),
            None => return Err(fatal("not_found", format!("{earlier}: no such job in the ledger"))),
        }
        let cursor = cursor.and_then(|text| text.split_once(' '));
        let after = cursor
            .and_then(|(position, id)| Some((position.parse().ok()?, ItemId::try_from(id.to_owned()).ok()?)));
        let after = after.as_ref().map(|(position, id)| (*position, id));
        let rows = self.ledger.unfinished_items(earlier, after, self.page as u32).await.map_err(away)?;
        let next = rows.last().map(|(position, item)| format!("{position} {}", item.id));
        let again = |row: &NewItem| {
            let asked: ItemMessage = serde_json::from_str(&row.message).map_err(|e| {
                fatal("malformed_message", format!("{earlier}/{}: written by another build: {e}", row.id))
            })?;
            let (job_id, output) = (record.id.clone(), job.output.clone());
            Ok(new_item(&ItemMessage { job_id, output, etag: None, priority: job.priority, ..asked }))
        };
        let items = rows.iter().map(|(_, row)| again(row)).collect::<Result<_, Trouble>>()?;
        Ok(Page { items, next })
    }

    fn list(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        urls: &[String],
        cursor: Option<&str>,
    ) -> Result<Page, Trouble> {
        for url in urls {
            self.inputs.locate(url).map_err(|e| trouble(&e))?;
        }
        let items = urls.iter().map(|url| job.item(&record.id, item_id(&name_of(url)), url.clone()));
        Ok(slice(distinct(items.collect()), cursor))
    }

    async fn prefix(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        url: &str,
        glob: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Trouble> {
        let prefix = self.inputs.locate(url).map_err(|e| trouble(&e))?;
        let matcher = matcher(glob).map_err(Trouble::Permanent)?;
        let (found, next) = self.inputs.page(&prefix, cursor, self.page).await.map_err(|e| trouble(&e))?;
        let wanted = found.into_iter().filter(|found| matcher.is_match(&found.name));
        let items = wanted.map(|Found { name, location, etag }| {
            let item = job.item(&record.id, item_id(&name), location.to_string());
            new_item(&ItemMessage { etag, ..item })
        });
        Ok(Page { items: items.collect(), next })
    }

    /// A manifest is checked whole before its first item exists.
    async fn manifest(
        &self,
        job: &JobMessage,
        record: &JobRecord,
        url: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Trouble> {
        let location = self.inputs.locate(url).map_err(|e| trouble(&e))?;
        let bytes = self.inputs.read(&location, self.max_manifest_bytes).await.map_err(|e| trouble(&e))?;
        // The cursor knows which manifest it is a place in.
        let version = &sha256(&bytes)[..16];
        let place = match cursor.map(|cursor| cursor.split_once(' ').unwrap_or((cursor, ""))) {
            Some((place, of)) if of == version => Some(place),
            Some(_) => {
                return Err(fatal("changed", format!("{location}: has changed while it was being read")));
            }
            None => None,
        };
        let lines = manifest_items(self.inputs, job, &record.id, &location, &bytes)?;
        let Page { items, next } = slice(lines, place);
        Ok(Page { items, next: next.map(|place| format!("{place} {version}")) })
    }
}

/// The items of a job whose manifest holds `bytes`; all of them, or none if a line is wrong.
///
/// # Errors
/// Which line is wrong, and why.
pub fn manifest_items(
    inputs: &Inputs,
    job: &JobMessage,
    id: &JobId,
    location: &Location,
    bytes: &[u8],
) -> Result<Vec<ItemMessage>, Trouble> {
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    for (n, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let bad = |why: String| fatal("bad_manifest", format!("{location}, line {n}: {why}"));
        let line: ManifestLine = serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
        if line.custom_id.is_empty() || line.custom_id.len() > 512 {
            return Err(bad("`custom_id` is empty or longer than 512 bytes".into()));
        }
        let name = item_id(&line.custom_id);
        if !seen.insert(name.clone()) {
            return Err(bad(format!("custom_id {:?} stands on an earlier line too", line.custom_id)));
        }
        inputs.locate(&line.video).map_err(|e| bad(e.to_string()))?;
        let tasks = line.tasks().map_err(|e| bad(e.to_string()))?.unwrap_or_else(|| job.tasks.clone());
        let item = job.item(id, name, line.video);
        items.push(ItemMessage { custom_id: Some(line.custom_id), tasks, ..item });
    }
    Ok(items)
}

fn fatal(code: &str, message: String) -> Trouble {
    Trouble::Permanent(Failure::new(code, message))
}

/// An item's name made of its video's or of what the manifest calls it: itself where that is a plain name, else what is
/// plain of it and a piece of its hash, so that two names never become one.
pub fn item_id(name: &str) -> ItemId {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    ItemId::try_from(name.to_owned()).unwrap_or_else(|_| {
        let text: String = name.chars().map(plain).collect();
        // The end of a path tells more than its beginning.
        let end = &text[text.len().saturating_sub(120)..];
        let id = format!("{end}-{}", &sha256(name.as_bytes())[..12]);
        ItemId::try_from(id.trim_start_matches(['.', '-']).to_owned()).expect("made of plain characters")
    })
}

/// The last part of a path.
fn name_of(url: &str) -> String {
    url.trim_end_matches('/').rsplit('/').next().unwrap_or(url).to_owned()
}

fn new_item(item: &ItemMessage) -> NewItem {
    NewItem { id: item.item_id.clone(), message: to_json(item) }
}

/// `a/x.mp4` and `b/x.mp4` are both called `x.mp4`; then all of that name are called by their whole path.
fn distinct(items: Vec<ItemMessage>) -> Vec<ItemMessage> {
    let mut taken = HashMap::new();
    for item in &items {
        *taken.entry(item.item_id.clone()).or_insert(0) += 1;
    }
    let named = items.into_iter().map(|item| match taken[&item.item_id] {
        1 => item,
        _ => ItemMessage { item_id: item_id(&item.video), ..item },
    });
    named.collect()
}

/// A page of a list that is known whole; the cursor is where it begins.
fn slice(items: Vec<ItemMessage>, cursor: Option<&str>) -> Page {
    let start: usize = cursor.and_then(|text| text.parse().ok()).unwrap_or(0);
    let end = start.saturating_add(LISTED).min(items.len());
    let next = (end < items.len()).then(|| end.to_string());
    Page { items: items.iter().skip(start).take(LISTED).map(new_item).collect(), next }
}

// ---- reports -> results ----

/// What gathers the reports of a job.
pub struct Results<'a> {
    pub store: &'a Store,
    pub ledger: &'a Ledger,
}

/// Sums over a job's items.
#[derive(Debug, Clone, Copy, Default)]
struct Tokens {
    prompt: u64,
    completion: u64,
}

impl Results<'_> {
    /// Writes `results.jsonl` and `errors.jsonl` in the order of the inputs, then `manifest.json`: where it stands the job
    /// has ended and everything else is there.
    ///
    /// # Errors
    /// Ledger or store are away.
    pub async fn write(&self, ended: &EndedJob, model: &Value) -> Result<(), Trouble> {
        let job = JobMessage::recall(&ended.record.message).map_err(Trouble::Permanent)?;
        let folder = folder(&job.output, &ended.record.id);
        let tokens = self.gather(ended, &job, &folder).await?;
        let manifest = manifest(ended, &job, model, tokens);
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest becomes JSON");
        let key = format!("{folder}/manifest.json");
        match self.store.put_new(&key, text.into()).await.map_err(|e| store_trouble(&e))? {
            Put::Created | Put::Same => {}
            // An earlier finaliser died before the ledger knew: its manifest says the same with other times.
            Put::Other(_) => tracing::info!(job = %ended.record.id, "the manifest was there"),
        }
        Ok(())
    }

    async fn gather(&self, ended: &EndedJob, job: &JobMessage, folder: &str) -> Result<Tokens, Trouble> {
        let away = |e: StoreError| store_trouble(&e);
        let mut results = self.store.upload(&format!("{folder}/results.jsonl")).map_err(away)?;
        let mut errors = self.store.upload(&format!("{folder}/errors.jsonl")).map_err(away)?;
        let mut tokens = Tokens::default();
        let mut after: Option<(i64, ItemId)> = None;
        loop {
            let from = after.as_ref().map(|(position, id)| (*position, id));
            let rows = self.ledger.items(&ended.record.id, from, ROWS).await;
            let rows =
                rows.map_err(|e| Trouble::Transient(Failure::new("ledger_unavailable", e.to_string())))?;
            let Some(last) = rows.last() else { break };
            after = Some((last.position, last.id.clone()));
            let reading: Vec<_> = rows.iter().map(|row| self.report(job, &ended.record.id, row)).collect();
            // One after the other: all of them at once may be more than memory holds.
            let mut reports = stream::iter(rows.iter()).zip(stream::iter(reading).buffered(READING));
            while let Some((row, report)) = reports.next().await {
                let report = report?;
                tokens.add(&report);
                match row.state {
                    ItemState::Succeeded => results.write(line(&report)).await.map_err(away)?,
                    _ => errors.write(line(&error_line(row, &ended.record, &report))).await.map_err(away)?,
                }
            }
        }
        results.finish().await.map_err(away)?;
        errors.finish().await.map_err(away)?;
        Ok(tokens)
    }

    /// The report of an item; one that was never begun has only what the ledger knows.
    async fn report(&self, job: &JobMessage, id: &JobId, row: &ItemRecord) -> Result<Value, Trouble> {
        if row.state == ItemState::Cancelled {
            let message = self.ledger.item_message(id, &row.id).await;
            let message =
                message.map_err(|e| Trouble::Transient(Failure::new("ledger_unavailable", e.to_string())))?;
            let asked: Value = serde_json::from_str(&message).unwrap_or_default();
            let mut report = json!({ "item_id": row.id, "input": { "url": asked["video"] } });
            if let Some(name) = asked.get("custom_id") {
                report["custom_id"] = name.clone();
            }
            return Ok(report);
        }
        let key = report_key(&job.output, id, &row.id);
        let found = self.store.get(&key, LONGEST_REPORT).await.map_err(|e| store_trouble(&e))?;
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
    // A cancelled item may have failed before, and would have been tried again.
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

/// How an item has ended by the report that stands in the store.
pub fn end_of(report: &[u8]) -> Option<ItemEnd> {
    let report: Value = serde_json::from_slice(report).ok()?;
    match report["status"].as_str()? {
        "succeeded" => Some(ItemEnd::Succeeded),
        "failed" => {
            let Failure { code, message } = serde_json::from_value(report["error"].clone()).ok()?;
            Some(ItemEnd::Failed(Failure::new(code, message)))
        }
        _ => None,
    }
}
