//! The generator thread: one decode step of all running sequences at a time.

use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use flamingo::generate::{self, Decoder, KvReservation, Output, Sequence, SequenceRequest};
use flamingo::kernels::threads::on_rayon;
use flamingo::language::kv_cache::BLOCK;
use flamingo::pipeline::{Pipeline, PlannedSequence};
use flamingo::{Error, Result};
use tracing::Span;

use super::fair_queue::FairQueue;
use super::limits::block_bytes;
use super::media_kv::MediaKvCache;
use super::prefixes::{PrefixCache, SharedPrefix};
use super::stats::{EngineStats, QueueGuard};
use super::{receive, spans};
use crate::context::RequestContext;
use crate::model::ModelError;

/// A sequence to generate or to score, and the channel for its output. The receiver may be gone.
pub(super) struct GenerateRequest {
    /// Index among the sequences of one call.
    pub(super) number: usize,
    /// Its media are projected when it is admitted.
    pub(super) sequence: PlannedSequence,
    pub(super) context: RequestContext,
    /// Counts the request as waiting until its sequence is admitted.
    pub(super) queued: Option<QueueGuard>,
    /// Ends with the request.
    pub(super) span: Span,
    pub(super) reply: Sender<(usize, Result<Output, ModelError>)>,
}

/// An admitted sequence.
struct RunningSequence {
    request: GenerateRequest,
    reservation: KvReservation,
    sequence: Sequence,
}

/// State of the generator thread.
pub(super) struct GeneratorThread<'p> {
    pipeline: &'p Pipeline,
    decoder: Decoder<'p>,
    media_kv: MediaKvCache,
    prefixes: PrefixCache,
    waiting: FairQueue<GenerateRequest>,
    running: Vec<RunningSequence>,
    stats: EngineStats,
}

impl<'p> GeneratorThread<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, stats: EngineStats, prefixes: PrefixCache) -> Result<Self> {
        let limits = stats.limits();
        let model = &pipeline.loaded().model;
        let block = block_bytes(model);
        let blocks = (limits.kv_bytes / block) as usize;
        if blocks == 0 {
            return Err(Error::OverBudget(format!(
                "{} bytes of KV cache are less than one block of {BLOCK} tokens, {block} bytes",
                limits.kv_bytes
            )));
        }
        Ok(Self {
            pipeline,
            decoder: Decoder::new(model, blocks)?,
            media_kv: MediaKvCache::new(limits.media_bytes),
            prefixes,
            waiting: FairQueue::default(),
            running: Vec::new(),
            stats,
        })
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, requests: &Receiver<GenerateRequest>) {
        let mut idle = true;
        while receive(requests, idle, |request| self.enqueue(request)) {
            self.drop_cancelled();
            on_rayon(|| {
                let start = Instant::now();
                self.admit();
                self.update_stats();
                self.step();
                self.prefixes.write(self.pipeline, &self.decoder, &mut self.media_kv);
                self.update_stats();
                self.stats.update(|snapshot| snapshot.generator.busy += start.elapsed());
            });
            idle = self.waiting.is_empty() && self.running.is_empty();
        }
    }

    fn update_stats(&self) {
        let block = block_bytes(&self.pipeline.loaded().model);
        let reserved = self.decoder.blocks() - self.decoder.free_blocks();
        let prefixes = self.prefixes.blocks();
        self.stats.update(|snapshot| {
            snapshot.rows = self.reserved_rows();
            snapshot.kv_bytes = (reserved - prefixes) as u64 * block;
            snapshot.prefix_bytes = prefixes as u64 * block;
            snapshot.prefixes = self.prefixes.counts();
            snapshot.media_bytes = self.media_kv.bytes();
        });
    }

    /// Returns the rows that running sequences may come to have.
    fn reserved_rows(&self) -> usize {
        self.running.iter().map(|running| running.reservation.rows).sum()
    }

    fn enqueue(&mut self, request: GenerateRequest) {
        let (context, reservation) = (request.context.clone(), request.sequence.plan.reservation());
        match self.check(&request, &reservation) {
            Some(error) => reply(&request, Err(error.into())),
            None => self.waiting.push(&context, reservation.blocks() as u64, request),
        }
    }

    /// Returns an error for a request that could never run.
    fn check(&self, request: &GenerateRequest, reservation: &KvReservation) -> Option<Error> {
        let model = &self.pipeline.loaded().model;
        if let Err(error) = request.sequence.plan.check(model) {
            return Some(error);
        }
        let over = reservation.blocks() > self.decoder.blocks();
        over.then(|| {
            let (needed, total) = (generate::describe(reservation), self.decoder.blocks());
            Error::OverBudget(format!("{needed}, the engine has {total} in all (engine.kv_bytes)"))
        })
    }

    fn drop_cancelled(&mut self) {
        let Self { waiting, running, decoder, .. } = self;
        for request in waiting.remove_if(|request| request.context.cancel.is_cancelled()) {
            reply(&request, Err(ModelError::Cancelled));
        }
        for mut cancelled in running.extract_if(.., |running| running.request.context.cancel.is_cancelled()) {
            cancelled.sequence.retire(decoder);
            reply(&cancelled.request, Err(ModelError::Cancelled));
        }
    }

    /// Admits waiting requests in the order of the queue while rows and KV blocks suffice; prefixes that no sequence shares make
    /// room for them. A request that does not fit blocks those behind it: if smaller ones could overtake it, it might wait for
    /// ever.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.peek() {
            let reservation = next.sequence.plan.reservation();
            let rows = self.reserved_rows();
            if rows > 0 && rows + reservation.rows > self.stats.limits().rows {
                return;
            }
            while reservation.blocks() > self.decoder.free_blocks() {
                if !self.prefixes.evict(&mut self.decoder) {
                    return;
                }
            }
            let Some(mut request) = self.waiting.pop() else { return };
            request.queued = None;
            spans::scheduled(&request.span);
            match self.begin(&request) {
                Ok(sequence) => self.running.push(RunningSequence { request, reservation, sequence }),
                Err(error) => reply(&request, Err(error.into())),
            }
        }
    }

    fn begin(&mut self, request: &GenerateRequest) -> Result<Sequence> {
        let prefix = SharedPrefix::of(self.pipeline, &request.sequence);
        // Before the media are projected: their K/V may be on disk too.
        let known = prefix.as_ref().and_then(|prefix| {
            let found = self.prefixes.find(prefix);
            found.or_else(|| self.prefixes.read(self.pipeline, &mut self.decoder, &mut self.media_kv, prefix))
        });
        let request = self.sequence_request(request)?;
        request.check(self.decoder.model())?;
        let admit = |prefix| self.prefixes.admit(&mut self.decoder, prefix, &request);
        let Some(id) = known.or_else(|| prefix.and_then(admit)) else {
            return Sequence::begin(&mut self.decoder, &request, None);
        };
        match Sequence::begin(&mut self.decoder, &request, Some(id)) {
            // A prefix of its own needs up to one block more than the same tokens in the sequence.
            Err(Error::OverBudget(_)) => {
                self.prefixes.evict_last(&mut self.decoder);
                Sequence::begin(&mut self.decoder, &request, None)
            }
            begun => begun,
        }
    }

    fn sequence_request(&mut self, request: &GenerateRequest) -> Result<SequenceRequest> {
        let media = request.sequence.media.iter().map(|medium| self.media_kv.get(self.pipeline, medium));
        Ok(request.sequence.plan.clone().over(media.collect::<Result<_>>()?))
    }

    /// Runs one decode step of all running sequences.
    fn step(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.stats.update(|snapshot| snapshot.generator.passes += 1);
        let Ok(scores) = self.decoder.step() else { return self.run_each_alone() };
        let mut continuing = Vec::with_capacity(self.running.len());
        for mut running in self.running.drain(..) {
            match running.sequence.advance(&mut self.decoder, &scores) {
                Ok(None) => continuing.push(running),
                Ok(Some(output)) => reply(&running.request, Ok(output)),
                Err(error) => {
                    running.sequence.retire(&mut self.decoder);
                    reply(&running.request, Err(error.into()));
                }
            }
        }
        self.running = continuing;
    }

    /// After a failed step, runs each sequence alone from its beginning so that one bad request does not fail the batch.
    fn run_each_alone(&mut self) {
        self.prefixes.clear(&mut self.decoder);
        for mut running in std::mem::take(&mut self.running) {
            running.sequence.retire(&mut self.decoder);
            let alone = |request| generate::run(&self.pipeline.loaded().model, &[request]).remove(0);
            let output = self.sequence_request(&running.request).and_then(alone);
            reply(&running.request, output.map_err(ModelError::from));
        }
    }
}

fn reply(request: &GenerateRequest, output: Result<Output, ModelError>) {
    spans::record_output(&request.span, request.sequence.plan.prompt.len(), &output);
    let _ = request.reply.send((request.number, output));
}
