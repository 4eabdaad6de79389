//! Videos as jobs: what the machinery asks of a service, answered with the decoder, the model and the store.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flamingo::video::VideoLimits;
use jobs::job::NewJob;
use jobs::ledger::{ItemClaim, JobRecord, Ledger};
use jobs::queue::{Event, Message};
use jobs::state::ItemEnd;
use jobs::store::{Put, Store};
use jobs::trace;
use jobs::worker::{EndedJob, Observer, Outcome, Page, Refusal, RunContext, Service, Trouble};
use jobs::{Failure, ItemId, JobId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::admission::{self, frames_at_once};
use crate::batch::{LONGEST_REPORT, Listing, Results, end_of, folder, report_key, sheet_key};
use crate::budget::{Budget, NoRoom, Reserved};
use crate::decoder::{ProcessLimits, StopFlag};
use crate::engine::{Engine, Meter};
use crate::fetch::{FetchError, Fetched, InputInfo, Inputs};
use crate::item_report::ItemReport;
use crate::message::{Asker, ITEM_SCHEMA, ItemMessage, JOB_SCHEMA, JobMessage, Priority};
use crate::model::Model;
use crate::outcome::{Verdict, of_fetching, of_room, of_understanding, store_trouble};
use crate::progress::Tally;
use crate::seen::SeenVideo;
use crate::seen_cache::{SeenCache, content_of};
use crate::sheet::FewFrames;
use crate::understand::{Request, Source, Understander, Understood};

/// The version of the news about jobs.
pub const EVENT_SCHEMA: &str = "flamingo.event/1";

/// How long a picture may keep its report waiting.
const SHEET_PATIENCE: Duration = Duration::from_secs(10);

/// One who watches the loop, and what comes of each video.
pub trait Watcher: Observer {
    /// A video was looked at and asked about, well or not.
    fn looked(&self, _report: &ItemReport) {}

    /// What the videos in flight share: room on the disk and in memory, and the engine.
    fn videos_share(&self, _disk: &Budget, _memory: &Budget, _engine: &Meter) {}
}

/// Answers jobs about videos.
pub struct VideoService {
    pub engine: Engine,
    /// The binary that decodes.
    pub decoder: PathBuf,
    /// What one of its processes may use.
    pub process: ProcessLimits,
    pub watcher: Arc<dyn Watcher>,
    /// What was seen of videos before.
    pub seen: SeenCache,
    pub inputs: Inputs,
    pub store: Store,
    pub ledger: Ledger,
    /// This worker's name.
    pub worker: String,
    pub page: usize,
    pub max_bytes: u64,
    /// What videos may take of this process's memory while they are looked at.
    pub memory: Budget,
    /// Bytes of a frame as the model wants it.
    pub frame_bytes: u64,
    /// How long a video waits for memory.
    pub patience: Duration,
    pub max_manifest_bytes: u64,
    /// Write a picture of the frames beside each report.
    pub sheets: bool,
}

/// What is at hand of a video.
enum Known {
    /// Its bytes, and the name under which to keep what is seen of them.
    File {
        fetched: Fetched,
        key: Option<String>,
    },
    Seen(Arc<SeenVideo>),
}

#[async_trait]
impl Service for VideoService {
    type Report = ItemReport;

    const JOB_KIND: &'static str = JOB_SCHEMA;
    const ITEM_KIND: &'static str = ITEM_SCHEMA;

    fn parse_job(&self, message: &Message) -> Result<NewJob, Refusal> {
        JobMessage::parse(message)?.to_new().map_err(Refusal::Permanent)
    }

    fn parse_item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal> {
        let item = ItemMessage::parse(message)?;
        Ok((item.job_id, item.item_id))
    }

    fn is_urgent(&self, item: &str) -> bool {
        ItemMessage::priority_of(item) == Priority::Urgent
    }

    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble> {
        let Self { inputs, ledger, page, max_manifest_bytes, .. } = self;
        let listing = Listing { inputs, ledger, page: *page, max_manifest_bytes: *max_manifest_bytes };
        listing.page(job, cursor).await
    }

    async fn find_report(&self, claim: &ItemClaim) -> Result<Option<ItemEnd>, Trouble> {
        let key = self.key(claim)?;
        let found = self.store.get(&key, LONGEST_REPORT).await.map_err(|e| store_trouble(&e))?;
        Ok(found.and_then(|bytes| end_of(&bytes)))
    }

    async fn run(&self, claim: &ItemClaim, running: &RunContext) -> Outcome<ItemReport> {
        let item: ItemMessage = match recall(claim) {
            Ok(item) => item,
            Err(why) => return Outcome::Reject(why),
        };
        if let Some(name) = item.model.as_ref().filter(|name| **name != self.engine.about().name) {
            let text =
                format!("the job asks for model {name:?}, this worker has {:?}", self.engine.about().name);
            return Outcome::Retry { after: None, reason: Failure::new("other_model", text) };
        }
        let request = self.request(&item);
        let memory = admission::estimate(&request, self.frame_bytes);
        // Before anything is fetched for it.
        if let Err(why) = self.memory.check(memory) {
            return no_memory(&item, &request, &why);
        }
        let tally = request.tally.clone();
        running.report_progress_with(move || tally.progress().json());
        let stop = running.stop.clone();
        let started = std::time::Instant::now();
        let looked = tokio::select! {
            looked = self.look(&item, &request) => looked,
            () = stop.cancelled() => return Outcome::Cancelled,
        };
        let (video, input) = match looked {
            Ok(looked) => looked,
            Err(error) => return fetch_failed(&error),
        };
        let fetch_s = started.elapsed().as_secs_f64();
        let admitted = match video {
            // Nothing is decoded.
            Known::Seen(_) => Ok(None),
            Known::File { .. } => tokio::select! {
                room = self.memory.reserve(memory, item.priority, self.patience) => room.map(Some),
                () = stop.cancelled() => return Outcome::Cancelled,
            },
        };
        let room = match admitted {
            Ok(room) => room,
            Err(why) => return no_memory(&item, &request, &why),
        };
        let (understood, sheet) = self.understand(&item, request, video, room, stop).await;
        let verdict = understood.error.as_ref().map(|e| of_understanding(e, self.engine.is_on_cpu()));
        let why = understood.error.as_ref().map(|e| Failure::new(e.code(), e.to_string()));
        match (verdict, why) {
            (Some(Verdict::Retry), Some(why)) => Outcome::Retry { after: None, reason: why },
            (Some(Verdict::Later), Some(why)) => Outcome::Later(why),
            (Some(Verdict::Unfit), Some(why)) => Outcome::WorkerFault(why),
            (Some(Verdict::Cancelled), _) => Outcome::Cancelled,
            _ => {
                if let Some(sheet) = sheet {
                    self.put_sheet(claim, &item, sheet).await;
                }
                let report = self.report(claim, &item, input, fetch_s, understood);
                self.watcher.looked(&report);
                Outcome::Done(report)
            }
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

    fn end_event(&self, ended: &EndedJob) -> Event {
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

    fn refusal_event(&self, message: &Message, why: &Failure) -> Event {
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
    not_begun(of_fetching(error), Failure::new(error.code(), error.to_string()))
}

fn no_memory(item: &ItemMessage, request: &Request, why: &NoRoom) -> Outcome<ItemReport> {
    let code = match why {
        NoRoom::Ever { .. } => "limit_memory",
        NoRoom::Now { .. } => "no_room",
    };
    let frames = frames_at_once(request);
    let text = format!(
        "{}: no memory for up to {frames} frames in one answer (worker.memory): {why}; ask for fewer frames",
        item.video
    );
    not_begun(of_room(why), Failure::new(code, text))
}

/// Why nothing was decoded.
fn not_begun(verdict: Verdict, why: Failure) -> Outcome<ItemReport> {
    match verdict {
        Verdict::Final => Outcome::Reject(why),
        Verdict::Retry => Outcome::Retry { after: None, reason: why },
        Verdict::Later => Outcome::Later(why),
        Verdict::Unfit => Outcome::WorkerFault(why),
        Verdict::Cancelled => Outcome::Cancelled,
    }
}

impl VideoService {
    fn key(&self, claim: &ItemClaim) -> Result<String, Trouble> {
        let item = recall(claim).map_err(Trouble::Permanent)?;
        Ok(report_key(&item.output, &claim.job, &claim.item))
    }

    fn request(&self, item: &ItemMessage) -> Request {
        Request {
            tasks: item.tasks.clone(),
            sampling: item.sampling.clone(),
            window: item.window,
            max_frames: item.max_frames,
            generation: item.generation.clone(),
            limits: VideoLimits { max_bytes: self.max_bytes, ..VideoLimits::default() },
            process: self.process.clone(),
            job: item.job_id.to_string(),
            urgent: item.priority == Priority::Urgent,
            stop: StopFlag::default(),
            tally: Tally::default(),
        }
    }

    /// What was seen of the video before, or the video itself.
    async fn look(&self, item: &ItemMessage, request: &Request) -> Result<(Known, InputInfo), FetchError> {
        let found = async {
            let found = self.find(item, request).await;
            found.inspect_err(|error| trace::mark_failed(error.code()))
        };
        found.instrument(info_span!("fetch")).await
    }

    async fn find(&self, item: &ItemMessage, request: &Request) -> Result<(Known, InputInfo), FetchError> {
        let location = self.inputs.locate(&item.video)?;
        let version = item.etag.as_ref().map(|etag| (location.to_string(), etag.clone()));
        if let Some((url, etag)) = &version
            && let Some(content) = self.seen.content(&(url.clone(), etag.clone()))
            && let Some(seen) = self.seen.get(&self.seen.key(&content, request)).await
        {
            let input = InputInfo { url: url.clone(), bytes: Some(content.bytes), etag: Some(etag.clone()) };
            return Ok((Known::Seen(seen), input));
        }
        let etag = item.etag.as_deref();
        let (fetched, input) = self.inputs.fetch(&location, etag, self.max_bytes, item.priority).await?;
        if !self.seen.is_on() {
            return Ok((Known::File { fetched, key: None }, input));
        }
        let path = fetched.path();
        let content = tokio::task::spawn_blocking(move || content_of(&path));
        // A file that cannot be read is the decoder's to name.
        let Ok(Ok(content)) = content.await else { return Ok((Known::File { fetched, key: None }, input)) };
        let key = self.seen.key(&content, request);
        if let Some(etag) = &input.etag {
            self.seen.remember((input.url.clone(), etag.clone()), content);
        }
        match self.seen.get(&key).await {
            Some(seen) => Ok((Known::Seen(seen), input)),
            None => Ok((Known::File { fetched, key: Some(key) }, input)),
        }
    }

    /// In a thread of its own: it decodes, and waits for its turn at the model.
    async fn understand(
        &self,
        item: &ItemMessage,
        request: Request,
        video: Known,
        room: Option<Reserved>,
        stop: CancellationToken,
    ) -> (Understood, Option<FewFrames>) {
        let (engine, decoder, name) = (self.engine.clone(), self.decoder.clone(), PathBuf::from(&item.video));
        let (fetched, seen, key) = match video {
            Known::File { fetched, key } => (Some(fetched), None, key),
            Known::Seen(seen) => (None, Some(seen), None),
        };
        // The thread may be waiting for its decoder; whoever waits for the thread may have let go of it.
        let unwanted = request.stop.clone();
        let told = tokio::spawn(async move {
            stop.cancelled().await;
            unwanted.set();
        });
        let mut sheet = (self.sheets && seen.is_none()).then(FewFrames::default);
        let span = Span::current();
        let work = tokio::task::spawn_blocking(move || {
            // Until this thread has ended, even when nobody waits for it any more.
            let _room = room;
            let _within = span.enter();
            let file = fetched.as_ref().map(Fetched::path).unwrap_or_default();
            let source = Source { file, name };
            let understander = Understander { model: &engine, decoder };
            if let Some(seen) = seen {
                return (understander.understand_again(&source, &request, &seen), None);
            }
            let mut go_on = |frame: &_| {
                if let Some(sheet) = &mut sheet {
                    sheet.add(frame);
                }
                if request.stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            (understander.understand(&source, &request, &mut go_on), sheet)
        });
        let (mut understood, sheet) =
            work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        told.abort();
        if let (Some(key), Some(seen)) = (key, understood.seen.take()) {
            self.seen.put(&key, seen).await;
        }
        (understood, sheet)
    }

    /// A picture for people: without it the report is as good.
    async fn put_sheet(&self, claim: &ItemClaim, item: &ItemMessage, sheet: FewFrames) {
        let key = sheet_key(&item.output, &claim.job, &claim.item);
        let failed = match tokio::task::spawn_blocking(move || sheet.jpeg()).await {
            Ok(Ok(Some(jpeg))) => {
                let put = self.store.put_new(&key, Bytes::from(jpeg));
                match tokio::time::timeout(SHEET_PATIENCE, put).await {
                    Ok(put) => put.err().map(|e| e.to_string()),
                    Err(_) => Some("the store does not answer".into()),
                }
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        if let Some(why) = failed {
            tracing::warn!(job = %claim.job, item = %claim.item, why, "no sheet of frames");
        }
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
