//! The engine: two threads that own the model, with their queues, batching policy and budgets.
//!
//! Callers send requests through channels and block until the answer comes. The encoder thread runs frames of several
//! videos through the vision encoder in one batch. The generator thread decodes one token of every running sequence per
//! step; sequences join and leave between steps (continuous batching). Decoding of videos, encoding and generation
//! overlap, and no request waits until another video or answer is complete. `FairQueue` orders requests by the service
//! that each job has received. Prompts that begin with the same few-shot examples share their KV, as long as the KV cache
//! has room for it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};

use flamingo::Result;
use flamingo::generate::Output;
use flamingo::pipeline::{Medium, Pipeline, PlannedSequence};
use flamingo::video::Frame;

use crate::context::RequestContext;
use crate::encoded_video::EncodedWindow;
use crate::model::{Model, ModelError};

mod limits;
mod stats;
mod fair_queue;
mod media_kv;
mod prefix_files;
mod prefixes;
mod spans;
mod encoder;
mod generator;

use encoder::{EncodeRequest, EncoderThread};
use generator::{GenerateRequest, GeneratorThread};
pub use limits::EngineLimits;
pub use prefix_files::PrefixFolder;
use prefix_files::PrefixWriter;
use prefixes::PrefixCache;
pub use stats::{EngineSnapshot, EngineStats, PrefixCounts, ThreadStats};

/// A handle to the model for many threads at once. The engine ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    /// For work that needs no queue: model info, prompts, resizing frames in the thread that decodes them.
    pipeline: Arc<Pipeline>,
    /// Unbounded, but callers block, so each holds at most one entry per caller (and task).
    encoder: Sender<EncodeRequest>,
    generator: Sender<GenerateRequest>,
    stats: EngineStats,
    /// Dropped last: waits until the prefixes are on disk.
    _prefix_writer: Option<Arc<PrefixWriter>>,
}

impl Engine {
    /// Allocates the KV cache and starts both threads.
    ///
    /// # Errors
    /// The device has too little memory, or `kv_bytes` is less than one block.
    pub fn start(pipeline: Pipeline, limits: EngineLimits) -> Result<Self> {
        Self::start_with_prefixes(pipeline, limits, None)
    }

    /// Starts an engine that keeps prefixes in a folder too, for the next start. The last handle waits until they are written. The
    /// model must be loaded with the [hash of its language model](flamingo::family::LoadOptions::hash_language).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_prefixes(
        pipeline: Pipeline,
        limits: EngineLimits,
        prefixes: Option<PrefixFolder>,
    ) -> Result<Self> {
        let pipeline = Arc::new(pipeline);
        let folder = prefixes.filter(|_| {
            let hashed = pipeline.loaded().language_sha256.is_some();
            if !hashed {
                tracing::warn!("prefixes are not kept on disk: the language model is not hashed");
            }
            hashed
        });
        let (writer, disk) = match folder {
            None => (None, None),
            Some(folder) => {
                let (writer, sender) = PrefixWriter::start(folder.clone());
                (Some(Arc::new(writer)), Some((folder, sender)))
            }
        };
        let prefixes = PrefixCache::new(disk);
        let (encoder, encode_requests) = channel();
        let (generator, generate_requests) = channel();
        let (started, starting) = channel();
        let stats = EngineStats::new(limits);
        let (model, thread_stats) = (pipeline.clone(), stats.clone());
        spawn("encoder", move || EncoderThread::new(&model, thread_stats).run(&encode_requests));
        let (model, thread_stats) = (pipeline.clone(), stats.clone());
        spawn("generator", move || match GeneratorThread::new(&model, thread_stats, prefixes) {
            Ok(thread) => {
                let _ = started.send(Ok(()));
                thread.run(&generate_requests);
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        });
        starting.recv().expect("the generator thread reports how it started")?;
        Ok(Self { pipeline, encoder, generator, stats, _prefix_writer: writer })
    }

    /// Returns the statistics of both threads.
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Whether the model runs on a CPU. On other devices a failing model means a failing device.
    pub fn is_on_cpu(&self) -> bool {
        self.pipeline.options().device.is_cpu()
    }

    /// Returns the part of a cache key that names all that visual tokens depend on but the video and its sampling: weights and
    /// configurations of vision encoder and resampler, preprocessing, dtype.
    pub fn visual_revision(&self) -> String {
        let (loaded, options) = (self.pipeline.loaded(), self.pipeline.options());
        format!("{} {}", loaded.visual_sha256, options.dtype.as_str())
    }
}

impl Model for Engine {
    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn encode(&self, prepared: Vec<Frame>, context: &RequestContext) -> Result<Medium, ModelError> {
        let (reply, replies) = channel();
        let span = spans::encode(prepared.len());
        let queued = Some(self.stats.queue(|snapshot| &mut snapshot.encoder));
        let request = EncodeRequest { prepared, context: context.clone(), queued, span: span.clone(), reply };
        let sent = self.encoder.send(request).map_err(|_| ModelError::Gone);
        let encoded = sent.and_then(|()| replies.recv().map_err(|RecvError| ModelError::Gone)?);
        encoded.inspect_err(|error| spans::failed(&span, error))
    }

    fn restore(&self, window: &EncodedWindow) -> Result<Medium, ModelError> {
        let span = spans::restore(window.frame_times.len());
        Model::restore(&*self.pipeline, window).inspect_err(|error| spans::failed(&span, error))
    }

    /// Sends all sequences at once, so that they run in one batch.
    fn run_sequences(
        &self,
        sequences: Vec<PlannedSequence>,
        context: &RequestContext,
    ) -> Vec<Result<Output, ModelError>> {
        let (reply, replies) = channel();
        let mut outputs: Vec<Result<Output, ModelError>> =
            sequences.iter().map(|_| Err(ModelError::Gone)).collect();
        for (number, sequence) in sequences.into_iter().enumerate() {
            let request = GenerateRequest {
                number,
                span: spans::generate(&self.info().name, sequence.plan.reservation().new_tokens),
                sequence,
                context: context.clone(),
                queued: Some(self.stats.queue(|snapshot| &mut snapshot.generator)),
                reply: reply.clone(),
            };
            // A closed channel leaves the default output, `Gone`.
            let _ = self.generator.send(request);
        }
        drop(reply);
        for (number, output) in replies {
            outputs[number] = output;
        }
        outputs
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(work).expect("the process can start a thread");
}

/// Takes every request that has arrived; blocks for one if `idle`. Returns `false` when all senders are gone.
fn receive<T>(requests: &Receiver<T>, idle: bool, mut accept: impl FnMut(T)) -> bool {
    if idle {
        let Ok(request) = requests.recv() else { return false };
        accept(request);
    }
    requests.try_iter().for_each(accept);
    true
}
