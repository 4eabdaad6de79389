//! Several sequences in one decoder, from the first admission to the last output.

use super::decoder::{Decoder, PrefixId};
use super::prefix::Prefix;
use super::sequence::{Output, Sequence, SequenceRequest};
use crate::error::{Error, Result};
use crate::model::Flamingo;

/// KV blocks of a batch, unless one sequence needs more: further sequences wait until blocks are free.
const BATCH_BLOCKS: usize = 256;

/// Runs sequences in one batch. Requests with the same prefix share it. Returns one output per request, in order.
pub fn run(model: &Flamingo, requests: &[SequenceRequest]) -> Vec<Result<Output>> {
    let outputs = run_until(model, requests, &|| false);
    outputs.into_iter().map(|output| output.expect("a batch that is not stopped has all outputs")).collect()
}

/// Runs sequences as [`run`] does, and stops between two steps when `stop` returns true. Sequences that are not complete
/// then have no output.
pub fn run_until(
    model: &Flamingo,
    requests: &[SequenceRequest],
    stop: &dyn Fn() -> bool,
) -> Vec<Option<Result<Output>>> {
    let mut outputs: Vec<Option<Result<Output>>> =
        requests.iter().map(|request| request.check(model).err().map(Err)).collect();
    let valid: Vec<usize> = (0..requests.len()).filter(|&i| outputs[i].is_none()).collect();
    if let Err(error) = Batch::new(model, requests, &valid).and_then(|batch| batch.run(&mut outputs, stop)) {
        let left: Vec<usize> = valid.into_iter().filter(|&i| outputs[i].is_none()).collect();
        match left[..] {
            [only] => outputs[only] = Some(Err(error)),
            // One bad sequence must not fail the others: each runs in a decoder of its own.
            _ => {
                for i in left {
                    outputs[i] = run_until(model, &requests[i..=i], stop).remove(0);
                }
            }
        }
    }
    outputs
}

struct Batch<'a> {
    requests: &'a [SequenceRequest],
    decoder: Decoder<'a>,
    prefixes: Vec<(Prefix, PrefixId)>,
    /// Requests to begin, the next one last.
    waiting: Vec<usize>,
    running: Vec<(usize, Sequence)>,
}

impl<'a> Batch<'a> {
    fn new(model: &'a Flamingo, requests: &'a [SequenceRequest], valid: &[usize]) -> Result<Self> {
        let mut shared: Vec<(Prefix, usize)> = Vec::new();
        for prefix in valid.iter().filter_map(|&i| Prefix::of(model, &requests[i])) {
            match shared.iter_mut().find(|(known, _)| *known == prefix) {
                Some((_, uses)) => *uses += 1,
                None => shared.push((prefix, 1)),
            }
        }
        shared.retain(|(_, uses)| *uses > 1);
        let needs = || valid.iter().map(|&i| requests[i].plan.reservation().blocks());
        let of_prefixes: usize = shared.iter().map(|(prefix, _)| prefix.blocks()).sum();
        let largest = needs().max().unwrap_or(0);
        let blocks = needs().sum::<usize>().min(largest.max(BATCH_BLOCKS));
        let mut decoder = Decoder::new(model, blocks + of_prefixes)?;
        let prefixes = shared
            .into_iter()
            .map(|(prefix, _)| {
                let id = prefix.admit(&mut decoder)?;
                Ok((prefix, id))
            })
            .collect::<Result<_>>()?;
        let waiting = valid.iter().rev().copied().collect();
        Ok(Self { requests, decoder, prefixes, waiting, running: Vec::new() })
    }

    fn run(mut self, outputs: &mut [Option<Result<Output>>], stop: &dyn Fn() -> bool) -> Result<()> {
        while (!self.waiting.is_empty() || !self.running.is_empty()) && !stop() {
            self.begin(outputs)?;
            let scores = self.decoder.step()?;
            let mut running = Vec::with_capacity(self.running.len());
            for (i, mut sequence) in self.running.drain(..) {
                match sequence.advance(&mut self.decoder, &scores) {
                    Ok(None) => running.push((i, sequence)),
                    Ok(Some(output)) => outputs[i] = Some(Ok(output)),
                    Err(error) => {
                        sequence.retire(&mut self.decoder);
                        outputs[i] = Some(Err(error));
                    }
                }
            }
            self.running = running;
        }
        Ok(())
    }

    /// Begins sequences in order, as long as blocks are free.
    fn begin(&mut self, outputs: &mut [Option<Result<Output>>]) -> Result<()> {
        while let Some(&i) = self.waiting.last() {
            let request = &self.requests[i];
            let own = Prefix::of(self.decoder.model(), request);
            let prefix =
                self.prefixes.iter().find(|(known, _)| Some(known) == own.as_ref()).map(|(_, id)| *id);
            match Sequence::begin(&mut self.decoder, request, prefix) {
                Ok(sequence) => self.running.push((i, sequence)),
                Err(Error::OverBudget(_)) if !self.running.is_empty() => return Ok(()),
                Err(error) => outputs[i] = Some(Err(error)),
            }
            self.waiting.pop();
        }
        Ok(())
    }
}
