//! One sequence: its rows in a decoder, and the strategy that chooses their tokens.

use std::sync::Arc;

use super::beam::BeamSearch;
use super::decoder::{Decoder, KvReservation, RowId, Scores};
use super::sample::Sampler;
use super::{Completion, Generation, StopCriteria, Strategy};
use crate::error::Result;
use crate::model::MediaKv;

/// An answer in progress. Any number of sequences share a decoder; each joins and leaves at any step.
pub struct Sequence {
    rows: Vec<RowId>,
    state: DecodingState,
    criteria: StopCriteria,
}

/// State of the decoding strategy.
enum DecodingState {
    Sample(Box<Sampler>),
    BeamSearch(BeamSearch),
}

impl Sequence {
    /// Returns the KV blocks to reserve for an answer with the settings `generation` after a prompt of `prompt` tokens.
    pub fn reservation(prompt: usize, generation: &Generation) -> KvReservation {
        let rows = match generation.strategy {
            Strategy::Beam { beams, .. } => beams,
            Strategy::Greedy {} | Strategy::Sample { .. } => 1,
        };
        KvReservation { prompt, new_tokens: generation.max_new_tokens, rows }
    }

    /// Admits the prompt to the decoder.
    ///
    /// # Errors
    /// A setting is invalid; else as [`Decoder::admit`].
    pub fn begin(
        decoder: &mut Decoder,
        prompt: &[u32],
        media: &[Arc<MediaKv>],
        generation: &Generation,
        criteria: &StopCriteria,
    ) -> Result<Self> {
        generation.check()?;
        let KvReservation { new_tokens, rows, .. } = Self::reservation(prompt.len(), generation);
        let row = decoder.admit(prompt.to_vec(), media.to_vec(), new_tokens, rows)?;
        let state = match generation.strategy {
            Strategy::Beam { beams, length_penalty } if beams > 1 => {
                DecodingState::BeamSearch(BeamSearch::new(beams, length_penalty, new_tokens))
            }
            Strategy::Greedy {} | Strategy::Beam { .. } => {
                DecodingState::Sample(Box::new(Sampler::greedy(new_tokens)))
            }
            Strategy::Sample { temperature, top_k, top_p, seed } => {
                DecodingState::Sample(Box::new(Sampler::sampled(temperature, top_k, top_p, seed, new_tokens)))
            }
        };
        Ok(Self { rows: vec![row], state, criteria: criteria.clone() })
    }

    /// Chooses the next tokens from the scores of a decoder step. Returns the answer when it is complete, and retires its
    /// rows. Does nothing while the prompt is still in prefill.
    ///
    /// # Errors
    /// The scores are no distribution.
    pub fn advance(&mut self, decoder: &mut Decoder, scores: &[Scores]) -> Result<Option<Completion>> {
        // All rows of a beam search are scored in the same step.
        let own_scores: Option<Vec<&[f32]>> = self
            .rows
            .iter()
            .map(|row| Some(&scores[scores.binary_search_by_key(row, |s| s.row).ok()?].log_probs[..]))
            .collect();
        let Some(own_scores) = own_scores else { return Ok(None) };
        let completion = match &mut self.state {
            DecodingState::Sample(sampler) => {
                let (token, completion) = sampler.next(own_scores[0], &self.criteria)?;
                if let Some(token) = token {
                    decoder.push(self.rows[0], token);
                }
                completion
            }
            DecodingState::BeamSearch(search) => {
                let parents = search.advance(&own_scores, &self.criteria);
                let completion = search.best_if_done();
                if completion.is_none() {
                    self.rows = reorder(decoder, &self.rows, &parents);
                    for (&row, token) in self.rows.iter().zip(search.last_tokens()) {
                        decoder.push(row, token);
                    }
                }
                completion
            }
        };
        if completion.is_some() {
            self.retire(decoder);
        }
        Ok(completion)
    }

    /// Retires the rows: cancels the answer.
    pub fn retire(&mut self, decoder: &mut Decoder) {
        self.rows.drain(..).for_each(|row| decoder.retire(row));
    }
}

/// Returns the rows of the next step: beam i continues row `parents[i]`. A row is forked only for its second and later
/// children.
fn reorder(decoder: &mut Decoder, rows: &[RowId], parents: &[usize]) -> Vec<RowId> {
    let next = |(i, &parent): (usize, &usize)| {
        let again = parents[..i].contains(&parent);
        if again { decoder.fork(rows[parent]) } else { rows[parent] }
    };
    let next = parents.iter().enumerate().map(next).collect();
    for (i, &row) in rows.iter().enumerate() {
        if !parents.contains(&i) {
            decoder.retire(row);
        }
    }
    next
}
