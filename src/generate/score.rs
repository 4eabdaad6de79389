//! Scores of given continuations: a kind of sequence in the same batches as generation.

use super::decoder::Decoder;
use super::reservation::KvReservation;
use super::scores::{RowId, Scores, find};
use crate::error::{Error, Result};
use crate::model::Flamingo;

/// Continuations of one sequence that are scored at the same time; bounds its KV blocks.
const MAX_ROWS: usize = 8;

/// State of a scored sequence. Its first row holds the prompt; the others are forks of it, one per continuation.
pub(super) struct Scoring {
    continuations: Vec<Vec<u32>>,
    /// Log-likelihood of each continuation so far.
    sums: Vec<f64>,
    /// Continuations in progress.
    running: Vec<Running>,
    /// Index of the next continuation to begin.
    next: usize,
    /// Whether the prompt is complete.
    begun: bool,
}

struct Running {
    row: RowId,
    index: usize,
    /// Tokens without a score.
    left: usize,
}

impl Scoring {
    pub(super) fn new(continuations: Vec<Vec<u32>>) -> Self {
        let sums = vec![0.0; continuations.len()];
        Self { continuations, sums, running: Vec::new(), next: 0, begun: false }
    }

    pub(super) fn check(model: &Flamingo, continuations: &[Vec<u32>]) -> Result<()> {
        if continuations.is_empty() || continuations.iter().any(Vec::is_empty) {
            return Err(Error::Prompt("an empty continuation has no likelihood".into()));
        }
        continuations.iter().try_for_each(|ids| model.check_markers(ids, 0))
    }

    pub(super) fn reservation(prompt: usize, continuations: &[Vec<u32>]) -> KvReservation {
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        KvReservation { prompt, new_tokens: longest, rows: 1 + continuations.len().min(MAX_ROWS) }
    }

    /// Adds the scores of a step and begins further continuations. Returns the log-likelihoods when all are complete.
    pub(super) fn advance(
        &mut self,
        decoder: &mut Decoder,
        rows: &mut Vec<RowId>,
        scores: &[Scores],
    ) -> Option<Vec<f64>> {
        if !self.begun {
            let first = find(scores, rows[0])?;
            for (sum, ids) in self.sums.iter_mut().zip(&self.continuations) {
                *sum = f64::from(first.log_probs[ids[0] as usize]);
            }
            self.begun = true;
        }
        for running in &mut self.running {
            let Some(scores) = find(scores, running.row) else { continue };
            self.sums[running.index] += scores.targets.iter().map(|&x| f64::from(x)).sum::<f64>();
            running.left -= scores.targets.len();
            if running.left == 0 {
                decoder.retire(running.row);
                rows.retain(|row| *row != running.row);
            }
        }
        self.running.retain(|running| running.left > 0);
        self.begin(decoder, rows);
        (self.running.is_empty() && self.next == self.continuations.len()).then(|| self.sums.clone())
    }

    fn begin(&mut self, decoder: &mut Decoder, rows: &mut Vec<RowId>) {
        while self.running.len() < MAX_ROWS && self.next < self.continuations.len() {
            let index = self.next;
            self.next += 1;
            let ids = &self.continuations[index];
            // The scores of the prompt hold that of the first token.
            if ids.len() > 1 {
                let row = decoder.fork(rows[0]);
                decoder.push_scored(row, ids);
                rows.push(row);
                self.running.push(Running { row, index, left: ids.len() - 1 });
            }
        }
    }
}
