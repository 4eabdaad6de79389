//! Videos as jobs: what the machinery asks of a service, answered with the decoder, the model and the store.

use std::ops::ControlFlow;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use flamingo::video::VideoLimits;
use jobs::job::{ItemEnd, NewJob};
use jobs::ledger::{ItemClaim, JobRecord, Ledger};
use jobs::queue::{Event, Message};
use jobs::store::{Put, Store};
use jobs::worker::{EndedJob, Outcome, Page, Refusal, Service, Trouble};
use jobs::{Failure, ItemId, JobId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::batch::{LONGEST_REPORT, Listing, Results, end_of, folder, report_key};
use crate::decoder::ProcessLimits;
use crate::engine::Engine;
use crate::fetch::{FetchError, Fetched, InputInfo, Inputs};
use crate::item_report::ItemReport;
use crate::message::{Asker, ITEM_SCHEMA, ItemMessage, JOB_SCHEMA, JobMessage};
use crate::outcome::{Verdict, of_fetching, of_understanding, store_trouble};
use crate::understand::{Model, Request, Source, Understander, Understood};

/// The version of the news about jobs.
pub const EVENT_SCHEMA: &str = "flamingo.event/1";

/// Answers jobs about videos.
pub struct VideoService {
    pub engine: Engine,
    /// The binary that decodes.
    pub decoder: PathBuf,
    pub inputs: Inputs,
    pub store: Store,
    pub ledger: Ledger,
    /// This worker's name.
    pub worker: String,
    pub page: usize,
    pub max_bytes: u64,
    pub max_manifest_bytes: u64,
}

#[async_trait]
impl Service for VideoService {
    type Report = ItemReport;

    const JOB_KIND: &'static str = JOB_SCHEMA;
    const ITEM_KIND: &'static str = ITEM_SCHEMA;

    fn job(&self, message: &Message) -> Result<NewJob, Refusal> {
        JobMessage::parse(message)?.to_new().map_err(Refusal::Hopeless)
    }

    fn item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal> {
        let item = ItemMessage::parse(message)?;
        Ok((item.job_id, item.item_id))
    }

    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble> {
        let Self { inputs, page, max_manifest_bytes, .. } = self;
        let listing = Listing { inputs, page: *page, max_manifest_bytes: *max_manifest_bytes };
        listing.page(job, cursor).await
    }

    async fn written(&self, claim: &ItemClaim) -> Result<Option<ItemEnd>, Trouble> {
        let key = self.key(claim)?;
        let found = self.store.get(&key, LONGEST_REPORT).await.map_err(|e| store_trouble(&e))?;
        Ok(found.and_then(|bytes| end_of(&bytes)))
    }

    async fn run(&self, claim: &ItemClaim, stop: CancellationToken) -> Outcome<ItemReport> {
        let item: ItemMessage = match recall(claim) {
            Ok(item) => item,
            Err(why) => return Outcome::Reject(why),
        };
        if let Some(name) = item.model.as_ref().filter(|name| **name != self.engine.about().name) {
            let text =
                format!("the job asks for model {name:?}, this worker has {:?}", self.engine.about().name);
            return Outcome::Retry { after: None, why: Failure::new("other_model", text) };
        }
        let started = std::time::Instant::now();
        let fetched = tokio::select! {
            fetched = self.fetch(&item) => fetched,
            () = stop.cancelled() => return Outcome::Cancelled,
        };
        let (fetched, input) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return fetch_failed(&error),
        };
        let fetch_s = started.elapsed().as_secs_f64();
        let understood = self.understand(&item, fetched, stop).await;
        let verdict = understood.error.as_ref().map(|e| of_understanding(e, self.engine.is_on_cpu()));
        let why = understood.error.as_ref().map(|e| Failure::new(e.code(), e.to_string()));
        match (verdict, why) {
            (Some(Verdict::Retry), Some(why)) => Outcome::Retry { after: None, why },
            (Some(Verdict::Unfit), Some(why)) => Outcome::Unfit(why),
            (Some(Verdict::Cancelled), _) => Outcome::Cancelled,
            _ => Outcome::Done(self.report(claim, &item, input, fetch_s, understood)),
        }
    }

    async fn write(
        &self,
        claim: &ItemClaim,
        result: Result<&ItemReport, &Failure>,
    ) -> Result<ItemEnd, Trouble> {
        let (bytes, end) = match result {
            Ok(report) => (report.json(), report.end()),
            Err(why) => (self.failed(claim, why).json(), ItemEnd::Failed(why.clone())),
        };
        if bytes.len() as u64 > LONGEST_REPORT {
            let text = format!(
                "the report has {} bytes, {LONGEST_REPORT} are allowed: ask for fewer windows",
                bytes.len()
            );
            return self.write(claim, Err(&Failure::new("report_too_large", text))).await;
        }
        let put = self.store.put_new(&self.key(claim)?, Bytes::from(bytes)).await;
        match put.map_err(|e| store_trouble(&e))? {
            Put::Created | Put::Same => Ok(end),
            Put::Other(there) => {
                tracing::info!(job = %claim.job, item = %claim.item, "another attempt's report was there");
                Ok(end_of(&there).unwrap_or(end))
            }
        }
    }

    async fn finalize(&self, ended: &EndedJob) -> Result<(), Trouble> {
        let model = serde_json::to_value(self.engine.about()).expect("a description becomes JSON");
        Results { store: &self.store, ledger: &self.ledger }.write(ended, &model).await
    }

    fn ended(&self, ended: &EndedJob) -> Event {
        let EndedJob { record, end, counts } = ended;
        let topic = format!("job.{}", end.state().as_str());
        let job = JobMessage::recall(&record.message).ok();
        let output = job.as_ref().map_or("", |job| job.output.as_str());
        let body = json!({
            "schema": EVENT_SCHEMA,
            "event": topic,
            "job_id": record.id,
            "idempotency_key": record.key,
            "status": end.state(),
            "counts": counts,
            "error": end.failure(),
            "manifest": self.store.url(&format!("{}/manifest.json", folder(output, &record.id))),
            "metadata": job.as_ref().map(|job| &job.metadata),
        });
        let (reply_to, correlation_id) =
            job.map(|job| (job.reply_to, job.correlation_id)).unwrap_or_default();
        event(&topic, record.id.to_string(), reply_to, correlation_id, &body)
    }

    fn refused(&self, message: &Message, why: &Failure) -> Event {
        let body = json!({
            "schema": EVENT_SCHEMA,
            "event": "job.refused",
            "message_id": message.id,
            "status": "refused",
            "error": why,
        });
        // A message that cannot be taken may still say whom to tell.
        let said: Asker = serde_json::from_slice(&message.body).unwrap_or_default();
        let reply_to = message.reply_to.clone().or(said.reply_to);
        let correlation_id = message.correlation_id.clone().or(said.correlation_id);
        event("job.refused", message.id.clone(), reply_to, correlation_id, &body)
    }
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

fn recall(claim: &ItemClaim) -> Result<ItemMessage, Failure> {
    serde_json::from_str(&claim.message).map_err(|e| {
        Failure::new(
            "internal",
            format!("{}/{}: the ledger has no readable item: {e}", claim.job, claim.item),
        )
    })
}

fn fetch_failed(error: &FetchError) -> Outcome<ItemReport> {
    let why = Failure::new(error.code(), error.to_string());
    match of_fetching(error) {
        Verdict::Final => Outcome::Reject(why),
        Verdict::Retry => Outcome::Retry { after: None, why },
        Verdict::Unfit => Outcome::Unfit(why),
        Verdict::Cancelled => Outcome::Cancelled,
    }
}

impl VideoService {
    fn key(&self, claim: &ItemClaim) -> Result<String, Trouble> {
        let item = recall(claim).map_err(Trouble::Fatal)?;
        Ok(report_key(&item.output, &claim.job, &claim.item))
    }

    async fn fetch(&self, item: &ItemMessage) -> Result<(Fetched, InputInfo), FetchError> {
        let location = self.inputs.locate(&item.video)?;
        self.inputs.fetch(&location, item.etag.as_deref(), self.max_bytes).await
    }

    /// In a thread of its own: it decodes, and waits for its turn at the model.
    async fn understand(&self, item: &ItemMessage, fetched: Fetched, stop: CancellationToken) -> Understood {
        let request = Request {
            tasks: item.tasks.clone(),
            sampling: item.sampling.clone(),
            window: item.window,
            max_frames: item.max_frames,
            generation: item.generation.clone(),
            limits: VideoLimits { max_bytes: self.max_bytes, ..VideoLimits::default() },
            process: ProcessLimits::default(),
        };
        let (engine, decoder, name) = (self.engine.clone(), self.decoder.clone(), PathBuf::from(&item.video));
        let work = tokio::task::spawn_blocking(move || {
            let source = Source { file: fetched.path().into(), name };
            let understander = Understander { model: &engine, decoder };
            let mut go_on = |_: &_| {
                if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            understander.understand(&source, &request, &mut go_on)
        });
        work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn report(
        &self,
        claim: &ItemClaim,
        item: &ItemMessage,
        input: InputInfo,
        fetch_s: f64,
        understood: Understood,
    ) -> ItemReport {
        let custom_id = item.custom_id.clone();
        ItemReport::new(claim, custom_id, &self.worker, input, fetch_s, understood.report)
    }

    /// The report of an item that got no further than to its failure.
    fn failed(&self, claim: &ItemClaim, why: &Failure) -> ItemReport {
        let item = recall(claim).ok();
        let url = item.as_ref().map(|item| item.video.clone()).unwrap_or_default();
        let custom_id = item.and_then(|item| item.custom_id);
        let input = InputInfo { url, bytes: None, etag: None };
        ItemReport::failed(claim, custom_id, &self.worker, input, self.engine.about().clone(), why)
    }
}
