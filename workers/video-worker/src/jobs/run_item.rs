//! Running an item: download or cache lookup, analysis, report.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use inference::analysis::{Analysis, AnalysisSpec, Source, VideoAnalyzer};
use inference::context::{Cancel, RequestContext};
use inference::encoded_video::EncodedVideo;
use inference::methods::FittedMethod;
use inference::model::Model;
use inference::report::contact_sheet::FrameSampler;
use inference::report::{ErrorReport, ReportBody};
use inference::support::EncodedSupport;
use jobs::ledger::ItemClaim;
use jobs::state::ItemEnd;
use jobs::trace;
use jobs::worker::{Claimed, RunContext};
use jobs::{Disposition, Failure, Stopped};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use super::VideoService;
use super::few_shot::chooser;
use super::reports::{put_report, read_report};
use super::retry_policy::{fetch_stopped, of_analysis, of_room, other_model, report_stopped};
use crate::admission::{self, NoRoom, Reservation, frames_at_once};
use crate::api::{InputInfo, Item, ItemReport, MAX_REPORT_BYTES, Priority, sheet_key};
use crate::cache::content_of;
use crate::inputs::{FetchError, Fetched};

/// Time limit for storing the contact sheet.
const SHEET_TIMEOUT: Duration = Duration::from_secs(10);

/// Source of a video: its bytes, or its cached visual tokens.
pub(super) enum VideoSource {
    /// The downloaded bytes, and the cache key for their visual tokens.
    Fetched {
        fetched: Fetched,
        key: Option<String>,
    },
    Cached(Arc<EncodedVideo>),
}

impl VideoService {
    /// Returns how the item ended, if an earlier attempt has written its report.
    pub(super) async fn written_end(&self, claimed: &Claimed<Item>) -> Result<Option<ItemEnd>, Stopped> {
        let report = read_report(&self.outputs.store, &claimed.item, MAX_REPORT_BYTES).await;
        Ok(report.map_err(|e| report_stopped(&e))?.map(|report| report.end()))
    }

    /// Runs an item: download, memory reservation, analysis.
    pub(super) async fn run_item(
        &self,
        claimed: &Claimed<Item>,
        running: &RunContext,
    ) -> Result<ItemReport, Stopped> {
        let Claimed { claim, item } = claimed;
        if let Some(reason) = &item.refused {
            return Err(Stopped::fail(reason.clone()));
        }
        self.check_model(item)?;
        let memory = admission::estimate(&item.spec, &self.decoder.limits, self.limits.frame_bytes);
        // Before the download.
        self.limits.memory.check(memory).map_err(|why| self.no_memory(&item.video, &item.spec, &why))?;
        let stop = running.stop.clone();
        let context = request_context(item, stop.clone());
        let progress = context.progress.clone();
        running.report_progress_with(move || progress.progress().json());
        // Before the video holds disk or memory, which the examples may wait for.
        let examples = match &item.few_shot {
            Some(few_shot) => {
                let examples = self.examples(item, few_shot, &stop).await?;
                let methods = self.methods(item, few_shot, &examples, &stop).await?;
                Some((few_shot, examples, methods))
            }
            None => None,
        };
        let started = std::time::Instant::now();
        let source = self.source(&item.video, item.etag.as_deref(), &item.spec, item.priority);
        let (video, input) = tokio::select! {
            source = source.instrument(info_span!("fetch")) => source.map_err(|e| fetch_stopped(&e))?,
            () = stop.cancelled() => return Err(cancelled()),
        };
        let fetch_s = started.elapsed().as_secs_f64();
        let room = match video {
            // Nothing is decoded, so no memory is needed.
            VideoSource::Cached(_) => None,
            VideoSource::Fetched { .. } => tokio::select! {
                room = self.limits.memory.reserve(memory, item.priority, self.limits.retry_timeout) => {
                    Some(room.map_err(|why| self.no_memory(&item.video, &item.spec, &why))?)
                }
                () = stop.cancelled() => return Err(cancelled()),
            },
        };
        let support = examples.as_ref().map(|(few_shot, examples, _)| chooser(few_shot, examples));
        let methods = examples.as_ref().map(|(.., methods)| methods.clone()).unwrap_or_default();
        let (analysis, sheet) = self.analyze(item, context, support, methods, video, room).await;
        if let Some(error) = &analysis.error {
            match of_analysis(error, self.engine.is_on_cpu()) {
                // The report of the analysis says so, with the answers that there are.
                Disposition::Fail => {}
                disposition @ (Disposition::Retry(_) | Disposition::WorkerFault | Disposition::Cancelled) => {
                    return Err(Stopped::new(disposition, Failure::new(error.code(), error.to_string())));
                }
            }
        }
        if let Some(sheet) = sheet {
            self.put_sheet(claim, item, sheet).await;
        }
        let few_shot = examples.map(|(few_shot, examples, _)| examples.report(few_shot.support.clone()));
        let body = analysis.report.body;
        Ok(ItemReport { few_shot, ..ItemReport::new(claim, item, &self.worker, input, fetch_s, body) })
    }

    /// Checks that this worker has the model that the item requires.
    fn check_model(&self, item: &Item) -> Result<(), Stopped> {
        let ours = &self.engine.info().name;
        match &item.model {
            Some(name) if name != ours => {
                let text = format!("the job asks for model {name:?}, this worker has {ours:?}");
                Err(other_model(Failure::new("other_model", text)))
            }
            _ => Ok(()),
        }
    }

    /// Writes the report of an item, unless an earlier attempt has written one.
    pub(super) async fn write_report(
        &self,
        claimed: &Claimed<Item>,
        result: Result<&ItemReport, &Failure>,
    ) -> Result<ItemEnd, Stopped> {
        let (bytes, end) = match result {
            Ok(report) => (report.json(), report.end()),
            Err(why) => (self.failed(claimed, why).json(), ItemEnd::Failed(why.clone())),
        };
        if bytes.len() as u64 > MAX_REPORT_BYTES {
            let text = format!(
                "the report has {} bytes, {MAX_REPORT_BYTES} are allowed; request fewer windows",
                bytes.len()
            );
            return Box::pin(self.write_report(claimed, Err(&Failure::new("report_too_large", text)))).await;
        }
        let put = put_report(&self.outputs.store, &claimed.item, bytes).await;
        match put.map_err(|e| report_stopped(&e))? {
            None => Ok(end),
            Some(earlier) => {
                let claim = &claimed.claim;
                tracing::info!(job = %claim.job, item = %claim.item, "another attempt had written the report");
                Ok(earlier.end())
            }
        }
    }

    /// Stops work on a video, or on an example, for which there is no memory.
    pub(super) fn no_memory(&self, video: &str, spec: &AnalysisSpec, why: &NoRoom) -> Stopped {
        let code = match why {
            NoRoom::NeverFits { .. } => "limit_memory",
            NoRoom::TimedOut { .. } => "no_room",
        };
        let frames = frames_at_once(spec, &self.decoder.limits);
        let text = format!(
            "{video}: no memory for up to {frames} frames of one answer (worker.memory): {why}; request fewer frames"
        );
        Stopped::new(of_room(why), Failure::new(code, text))
    }

    /// Finds cached visual tokens of a video, or downloads it.
    pub(super) async fn source(
        &self,
        url: &str,
        etag: Option<&str>,
        spec: &AnalysisSpec,
        priority: Priority,
    ) -> Result<(VideoSource, InputInfo), FetchError> {
        let found = self.find(url, etag, spec, priority).await;
        found.inspect_err(|error| trace::mark_failed(error.code()))
    }

    async fn find(
        &self,
        url: &str,
        etag: Option<&str>,
        spec: &AnalysisSpec,
        priority: Priority,
    ) -> Result<(VideoSource, InputInfo), FetchError> {
        let location = self.inputs.locate(url)?;
        let version = etag.map(|etag| (location.to_string(), etag.to_owned()));
        if let Some((url, etag)) = &version
            && let Some(content) = self.cache.content(&(url.clone(), etag.clone()))
            && let Some(encoded) = self.cache.get(&self.cache.key(&content, spec)).await
        {
            let input = InputInfo { url: url.clone(), bytes: Some(content.bytes), etag: Some(etag.clone()) };
            return Ok((VideoSource::Cached(encoded), input));
        }
        let (fetched, input) =
            self.inputs.fetch(&location, etag, self.decoder.limits.max_bytes, priority).await?;
        if !self.cache.is_enabled() {
            return Ok((VideoSource::Fetched { fetched, key: None }, input));
        }
        let path = fetched.path();
        let content = tokio::task::spawn_blocking(move || content_of(&path));
        // The decoder reports a file that cannot be read.
        let Ok(Ok(content)) = content.await else {
            return Ok((VideoSource::Fetched { fetched, key: None }, input));
        };
        let key = self.cache.key(&content, spec);
        if let Some(etag) = &input.etag {
            self.cache.remember((input.url.clone(), etag.clone()), content);
        }
        match self.cache.get(&key).await {
            Some(encoded) => Ok((VideoSource::Cached(encoded), input)),
            None => Ok((VideoSource::Fetched { fetched, key: Some(key) }, input)),
        }
    }

    /// Runs the analysis in a blocking thread.
    async fn analyze(
        &self,
        item: &Item,
        context: RequestContext,
        support: Option<EncodedSupport>,
        methods: Vec<Option<Arc<FittedMethod>>>,
        video: VideoSource,
        room: Option<Reservation>,
    ) -> (Analysis, Option<FrameSampler>) {
        let (engine, decoder, name) = (self.engine.clone(), self.decoder.clone(), PathBuf::from(&item.video));
        let spec = item.spec.clone();

        let (fetched, encoded, key) = match video {
            VideoSource::Fetched { fetched, key } => (Some(fetched), None, key),
            VideoSource::Cached(encoded) => (None, Some(encoded), None),
        };
        let keep_visual_tokens = key.is_some();
        let mut sheet = (self.outputs.sheets && encoded.is_none()).then(FrameSampler::default);
        let span = Span::current();
        let work = tokio::task::spawn_blocking(move || {
            // Held until the thread ends, even if its caller is dropped.
            let _room = room;
            let _within = span.enter();
            let file = fetched.as_ref().map(Fetched::path).unwrap_or_default();
            let source = Source { file, name };
            let analyzer = VideoAnalyzer {
                model: &engine,
                decoder,
                keep_visual_tokens,
                support: support.as_ref(),
                classifiers: &methods,
            };
            if let Some(encoded) = encoded {
                return (analyzer.analyze_cached(&source, &spec, &context, &encoded), None);
            }
            let mut on_frame = |frame: &_| {
                if let Some(sheet) = &mut sheet {
                    sheet.add(frame);
                }
                if context.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            (analyzer.analyze(&source, &spec, &context, &mut on_frame), sheet)
        });
        let (mut analysis, sheet) =
            work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        if let (Some(key), Some(encoded)) = (key, analysis.encoded.take()) {
            self.cache.put(&key, encoded).await;
        }
        (analysis, sheet)
    }

    /// Stores the contact sheet. The report does not depend on it, so errors are only logged.
    async fn put_sheet(&self, claim: &ItemClaim, item: &Item, sheet: FrameSampler) {
        let key = sheet_key(&item.output, &claim.job, &claim.item);
        let failed = match tokio::task::spawn_blocking(move || sheet.jpeg()).await {
            Ok(Ok(Some(jpeg))) => {
                let put = self.outputs.store.put_new(&key, Bytes::from(jpeg));
                match tokio::time::timeout(SHEET_TIMEOUT, put).await {
                    Ok(put) => put.err().map(|e| e.to_string()),
                    Err(_) => Some("the store does not respond".into()),
                }
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        if let Some(why) = failed {
            tracing::warn!(job = %claim.job, item = %claim.item, why, "cannot store the contact sheet");
        }
    }

    /// Returns the report of an item that failed before its analysis.
    fn failed(&self, Claimed { claim, item }: &Claimed<Item>, why: &Failure) -> ItemReport {
        let input = InputInfo { url: item.video.clone(), bytes: None, etag: None };
        let error = ErrorReport { code: why.code.clone(), message: why.message.clone() };
        let body = ReportBody::failed(self.engine.info().clone(), error);
        ItemReport::new(claim, item, &self.worker, input, 0.0, body)
    }
}

/// Returns the context of the requests of an item.
pub(super) fn request_context(item: &Item, stop: CancellationToken) -> RequestContext {
    RequestContext {
        job: item.job_id.to_string(),
        priority: item.priority,
        cancel: Cancel::when(move || stop.is_cancelled()),
        ..RequestContext::default()
    }
}

/// Stops a run that was cancelled.
pub(super) fn cancelled() -> Stopped {
    Stopped::new(Disposition::Cancelled, Failure::new("cancelled", "the run was cancelled"))
}
