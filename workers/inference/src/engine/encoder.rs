//! The encoder thread: frames of several videos in one batch of the vision encoder.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use flamingo::kernels::threads::on_rayon;
use flamingo::pipeline::{Medium, Pipeline};
use flamingo::video::Frame;
use tracing::Span;

use super::fair_queue::FairQueue;
use super::stats::{EngineStats, QueueGuard};
use super::{receive, spans};
use crate::context::RequestContext;
use crate::model::ModelError;

/// Frames to encode, and the channel for the result. The receiver may be gone.
pub(super) struct EncodeRequest {
    pub(super) prepared: Vec<Frame>,
    pub(super) context: RequestContext,
    /// Counts the request as waiting until a batch takes it.
    pub(super) queued: Option<QueueGuard>,
    pub(super) span: Span,
    pub(super) reply: Sender<Result<Medium, ModelError>>,
}

/// State of the encoder thread.
pub(super) struct EncoderThread<'p> {
    pipeline: &'p Pipeline,
    waiting: FairQueue<EncodeRequest>,
    stats: EngineStats,
}

impl<'p> EncoderThread<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, stats: EngineStats) -> Self {
        Self { pipeline, waiting: FairQueue::default(), stats }
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, requests: &Receiver<EncodeRequest>) {
        while receive(requests, self.waiting.is_empty(), |request| {
            let (context, frames) = (request.context.clone(), request.prepared.len());
            self.waiting.push(&context, frames as u64, request);
        }) {
            for request in self.waiting.remove_if(|request| request.context.cancel.is_cancelled()) {
                let _ = request.reply.send(Err(ModelError::Cancelled));
            }
            on_rayon(|| {
                let start = Instant::now();
                self.encode_batch();
                self.stats.update(|snapshot| snapshot.encoder.busy += start.elapsed());
            });
        }
    }

    /// Runs the next requests, up to `limits.frames` frames, through the vision encoder.
    fn encode_batch(&mut self) {
        let (mut batch, mut frames) = (Vec::new(), 0);
        while let Some(next) = self.waiting.peek() {
            frames += next.prepared.len();
            if frames > self.stats.limits().frames && !batch.is_empty() {
                break;
            }
            let Some(mut request) = self.waiting.pop() else { break };
            request.queued = None;
            spans::scheduled(&request.span);
            batch.push(request);
        }
        if batch.is_empty() {
            return;
        }
        let prepared: Vec<&[Frame]> = batch.iter().map(|request| &request.prepared[..]).collect();
        match self.pipeline.encode_batch(&prepared) {
            Ok(media) => {
                for (request, medium) in batch.iter().zip(media) {
                    let _ = request.reply.send(Ok(medium));
                }
            }
            // On error, encode each request alone so that one bad request does not fail the batch.
            Err(_) => {
                for request in &batch {
                    let encoded = self.pipeline.encode(&request.prepared).map_err(ModelError::from);
                    let _ = request.reply.send(encoded);
                }
            }
        }
        self.stats.update(|snapshot| snapshot.encoder.passes += 1);
    }
}
