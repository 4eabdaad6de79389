//! Few-shot examples of items: the stored version of a job's support set, and its encoding, once per worker.

use std::path::PathBuf;
use std::sync::Arc;

use flamingo::digest::sha256;
use flamingo::few_shot::{SupportExample, SupportSet};
use flamingo::pipeline::{Medium, Shot};
use futures_util::future::try_join_all;
use inference::analysis::{AnalysisError, AnalysisSpec, Source, VideoAnalyzer};
use inference::context::RequestContext;
use inference::encoded_video::EncodedVideo;
use inference::model::Model;
use inference::support::{EncodedSet, EncodedSupport};
use jobs::ledger::{JobRecord, Ledger};
use jobs::{Disposition, Failure, Stopped};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use super::VideoService;
use super::retry_policy::{fetch_stopped, of_analysis, support_stopped};
use super::run_item::{VideoSource, cancelled, request_context};
use crate::admission::{self, Reservation};
use crate::api::{FewShot, Item, JobMessage, LeftOut, SupportSource, SupportVersion, json};
use crate::inputs::Fetched;
use crate::support::{StoredSets, UsableExamples};

/// Examples that are fetched, decoded and encoded concurrently.
const AT_ONCE: usize = 4;
/// Number of times an example is decoded whose decoder crashes.
const DECODINGS: usize = 3;

/// Returns the version of the support set of a job, and the set. The first listed item fixes the version: later pages, and other
/// workers that continue the listing, take it from there.
///
/// # Errors
/// There is no such set, or ledger or store are unavailable.
pub(super) async fn fixed_support(
    job: &JobMessage,
    record: &JobRecord,
    ledger: &Ledger,
    sets: &StoredSets,
) -> Result<Option<(SupportVersion, SupportSet)>, Stopped> {
    let Some(few_shot) = &job.few_shot else { return Ok(None) };
    let first = ledger.items_with_content(&record.id, None, 1).await?;
    let listed = first.first().map(|(_, content)| Item::parse(content)).transpose()?;
    let version = match (listed.and_then(|item| item.few_shot), &few_shot.support) {
        (Some(few_shot), _) => few_shot.support,
        (None, SupportSource::Stored(name)) => sets.resolve(name).await.map_err(|e| support_stopped(&e))?,
        (None, SupportSource::Inline(examples)) => {
            let bad = |why: String| Stopped::fail(Failure::new("bad_request", why));
            let set = SupportSet::new(examples.clone()).map_err(|why| bad(why.to_string()))?;
            sets.add_of_job(&set).await.map_err(|e| support_stopped(&e))?
        }
    };
    let set = sets.read(&version).await.map_err(|e| support_stopped(&e))?;
    Ok(Some((version, set)))
}

impl VideoService {
    /// Returns the usable examples of an item, encoded once for all items with this set and sampling.
    pub(super) async fn examples(
        &self,
        item: &Item,
        few_shot: &FewShot<SupportVersion>,
        stop: &CancellationToken,
    ) -> Result<Arc<UsableExamples>, Stopped> {
        // An example is one medium, whatever the windows of the videos are.
        let spec = AnalysisSpec { tasks: Vec::new(), window: None, long: false, ..item.spec.clone() };
        let key = json(&(&few_shot.support.version, &spec.sampling, spec.max_frames));
        let encode = self.encode_set(item, few_shot, &spec, stop);
        let encode = encode.instrument(info_span!("encode support set"));
        let examples = tokio::select! {
            examples = self.support.get_or_encode(sha256(key.as_bytes()), encode) => examples?,
            () = stop.cancelled() => return Err(cancelled()),
        };
        match examples.left_out.first().filter(|_| examples.set.is_empty()) {
            None => Ok(examples),
            Some(LeftOut { media, code, message }) => {
                let (support, count) = (&few_shot.support, examples.left_out.len());
                let text = format!(
                    "no example of the support set {support} can be used ({count} examples); the first, {media}: {code}: {message}"
                );
                Err(Stopped::fail(Failure::new("no_examples", text)))
            }
        }
    }

    async fn encode_set(
        &self,
        item: &Item,
        few_shot: &FewShot<SupportVersion>,
        spec: &AnalysisSpec,
        stop: &CancellationToken,
    ) -> Result<UsableExamples, Stopped> {
        let sets = StoredSets::new(self.outputs.store.clone());
        let set = sets.read(&few_shot.support).await.map_err(|e| support_stopped(&e))?;
        // With its own progress: that of the item counts the frames of its video only.
        let context = request_context(item, stop.clone());
        let (mut shots, mut left_out) = (Vec::new(), Vec::new());
        for examples in set.examples().chunks(AT_ONCE) {
            let encoding: Vec<_> =
                examples.iter().map(|example| self.encode_example(example, spec, &context)).collect();
            for (example, encoded) in examples.iter().zip(try_join_all(encoding).await?) {
                let media = example.media.clone();
                match encoded {
                    Ok(medium) => shots.push(Shot { name: media, medium, text: example.text() }),
                    Err(Failure { code, message }) => left_out.push(LeftOut { media, code, message }),
                }
            }
        }
        let (support, examples) = (&few_shot.support, shots.len());
        tracing::info!(%support, examples, left_out = left_out.len(), "support set encoded");
        let failed = |why: flamingo::Error| Failure::new(why.code(), why.to_string());
        let set = EncodedSet::new(shots).map_err(|why| Stopped::fail(failed(why)))?;
        Ok(UsableExamples::new(set, left_out))
    }

    /// Encodes an example, or returns the reason why it cannot be used.
    ///
    /// # Errors
    /// A failure that says nothing about the example: the store is unavailable, this worker is full or broken.
    async fn encode_example(
        &self,
        example: &SupportExample,
        spec: &AnalysisSpec,
        context: &RequestContext,
    ) -> Result<Result<Medium, Failure>, Stopped> {
        match self.encoded_medium(&example.media, spec, context).await {
            Ok(medium) => Ok(Ok(medium)),
            Err(Stopped { failure, disposition: Disposition::Fail }) => Ok(Err(failure)),
            Err(stopped) => Err(stopped),
        }
    }

    async fn encoded_medium(
        &self,
        media: &str,
        spec: &AnalysisSpec,
        context: &RequestContext,
    ) -> Result<Medium, Stopped> {
        let (source, _) = self
            .source(media, None, spec, context.priority)
            .instrument(info_span!("fetch"))
            .await
            .map_err(|e| fetch_stopped(&e))?;
        let (fetched, key) = match source {
            VideoSource::Fetched { fetched, key } => (fetched, key),
            VideoSource::Cached(encoded) => return self.restored(&encoded),
        };
        let memory = admission::estimate(spec, &self.decoder.limits, self.limits.frame_bytes);
        let room = self.limits.memory.reserve(memory, context.priority, self.limits.retry_timeout).await;
        let room = room.map_err(|why| self.no_memory(media, spec, &why))?;
        let keep = key.is_some();
        let (medium, encoded) = self.decode_and_encode(media, spec, context, fetched, keep, room).await?;
        if let (Some(key), Some(encoded)) = (key, encoded) {
            self.cache.put(&key, encoded).await;
        }
        Ok(medium)
    }

    /// Copies the only window of cached visual tokens to the device.
    fn restored(&self, encoded: &EncodedVideo) -> Result<Medium, Stopped> {
        let window = encoded.windows.first().ok_or_else(|| {
            Stopped::fail(Failure::new("no_frames", "the cached visual tokens have no window"))
        })?;
        self.engine
            .restore(window)
            .map_err(|why| Stopped::new(Disposition::WorkerFault, Failure::new(why.code(), why.to_string())))
    }

    /// Decodes and encodes an example in a blocking thread; again if the decoder crashes.
    async fn decode_and_encode(
        &self,
        media: &str,
        spec: &AnalysisSpec,
        context: &RequestContext,
        fetched: Fetched,
        keep_visual_tokens: bool,
        room: Reservation,
    ) -> Result<(Medium, Option<EncodedVideo>), Stopped> {
        let (engine, decoder, spec) = (self.engine.clone(), self.decoder.clone(), spec.clone());
        let (context, name, span) = (context.clone(), PathBuf::from(media), Span::current());
        let on_cpu = self.engine.is_on_cpu();
        let work = tokio::task::spawn_blocking(move || {
            // Held until the thread ends, even if its caller is dropped.
            let _room = room;
            let _within = span.enter();
            let source = Source { file: fetched.path(), name };
            let analyzer = VideoAnalyzer {
                model: &engine,
                decoder,
                keep_visual_tokens,
                support: None,
                classifiers: &[],
            };
            let mut decodings = 1;
            loop {
                match analyzer.encode_video(&source, &spec, &context) {
                    Ok(encoded) => return Ok(encoded),
                    // The end of a cancelled decoder is no fault of the video or the worker.
                    Err(_) if context.cancel.is_cancelled() => return Err(cancelled()),
                    Err(error) if matches!(of_analysis(&error, on_cpu), Disposition::Retry(_)) => {
                        if decodings == DECODINGS {
                            return Err(stopped(&error, Disposition::Fail));
                        }
                        decodings += 1;
                    }
                    Err(error) => return Err(stopped(&error, of_analysis(&error, on_cpu))),
                }
            }
        });
        work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn stopped(error: &AnalysisError, disposition: Disposition) -> Stopped {
    Stopped::new(disposition, Failure::new(error.code(), error.to_string()))
}

/// Returns the chooser of the examples of an item.
pub(super) fn chooser(few_shot: &FewShot<SupportVersion>, examples: &UsableExamples) -> EncodedSupport {
    EncodedSupport::new(examples.set.clone(), few_shot.options)
}
