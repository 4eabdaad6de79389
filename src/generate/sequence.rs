//! One sequence: its rows in a decoder, and the strategy that chooses or scores their tokens.

use std::sync::Arc;

use super::beam::BeamSearch;
use super::decoder::{Decoder, PrefixId};
use super::reservation::{KvReservation, check_length};
use super::sample::Sampler;
use super::score::Scoring;
use super::scores::{RowId, Scores, find};
use super::{Completion, Generation, StopCriteria, Strategy};
use crate::error::Result;
use crate::model::{Flamingo, MediaKv};

/// Request for one sequence.
#[derive(Debug, Clone)]
pub struct SequenceRequest {
    /// Token ids of the whole prompt.
    pub prompt: Vec<u32>,
    /// Number of first tokens that form a prefix; requests with equal prefixes can share it. Prefill splits after it.
    pub prefix_len: usize,
    /// Media of the prompt in order.
    pub media: Vec<Arc<MediaKv>>,
    /// Goal of the sequence.
    pub goal: Goal,
}

/// Goal of a sequence.
#[derive(Debug, Clone)]
pub enum Goal {
    /// Generate a continuation.
    Generate {
        /// Settings of generation.
        generation: Generation,
        /// Tokens that end the continuation.
        stop_criteria: StopCriteria,
    },
    /// Score given continuations.
    Score {
        /// Token ids of each continuation.
        continuations: Vec<Vec<u32>>,
    },
}

/// Output of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Generated continuation.
    Completion(Completion),
    /// Natural log-likelihood of each given continuation.
    LogLikelihoods(Vec<f64>),
}

/// A sequence in progress. Any number of sequences share a decoder; each joins and leaves at any step.
pub struct Sequence {
    rows: Vec<RowId>,
    state: DecodingState,
}

/// State of the decoding strategy.
enum DecodingState {
    Sample(Box<Sampler>, StopCriteria),
    BeamSearch(BeamSearch, StopCriteria),
    Score(Scoring),
}

impl SequenceRequest {
    /// Returns the request to generate a continuation of a prompt without a prefix.
    pub fn generate(
        prompt: &[u32],
        media: &[Arc<MediaKv>],
        generation: &Generation,
        stop_criteria: &StopCriteria,
    ) -> Self {
        let (generation, stop_criteria) = (generation.clone(), stop_criteria.clone());
        let goal = Goal::Generate { generation, stop_criteria };
        Self { prompt: prompt.to_vec(), prefix_len: 0, media: media.to_vec(), goal }
    }

    /// Returns the request to score continuations of a prompt without a prefix.
    pub fn score(prompt: &[u32], media: &[Arc<MediaKv>], continuations: &[Vec<u32>]) -> Self {
        let goal = Goal::Score { continuations: continuations.to_vec() };
        Self { prompt: prompt.to_vec(), prefix_len: 0, media: media.to_vec(), goal }
    }

    /// Returns the KV blocks to reserve for the sequence if it shares no prefix.
    pub fn reservation(&self) -> KvReservation {
        match &self.goal {
            Goal::Generate { generation, .. } => Sequence::reservation(self.prompt.len(), generation),
            Goal::Score { continuations } => Scoring::reservation(self.prompt.len(), continuations),
        }
    }

    /// Checks the request.
    ///
    /// # Errors
    /// A setting is invalid, or the prompt does not fit the model.
    pub fn check(&self, model: &Flamingo) -> Result<()> {
        let KvReservation { prompt, new_tokens, .. } = self.reservation();
        match &self.goal {
            Goal::Generate { generation, .. } => generation.check()?,
            Goal::Score { continuations } => Scoring::check(model, continuations)?,
        }
        check_length(model, prompt, new_tokens)?;
        model.check_markers(&self.prompt, self.media.len())
    }
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

    /// Admits the sequence to the decoder. With `prefix`, the first `prefix_len` tokens and their media are those of the
    /// prefix, which the decoder has admitted.
    ///
    /// # Errors
    /// A setting is invalid; else as [`Decoder::admit`].
    pub fn start(decoder: &mut Decoder, request: &SequenceRequest, prefix: Option<PrefixId>) -> Result<Self> {
        request.check(decoder.model())?;
        let KvReservation { new_tokens, rows, .. } = request.reservation();
        let (shared, rest) = request.prompt.split_at(request.prefix_len);
        let row = match prefix {
            None => {
                let (prompt, media) = (request.prompt.clone(), request.media.clone());
                decoder.admit_split(prompt, request.prefix_len, media, new_tokens, rows)?
            }
            Some(prefix) => {
                let media = request.media[decoder.model().count_markers(shared)..].to_vec();
                decoder.admit_after(prefix, rest.to_vec(), media, new_tokens, rows)?
            }
        };
        let state = match &request.goal {
            Goal::Generate { generation, stop_criteria } => {
                DecodingState::generate(generation, stop_criteria.clone())
            }
            Goal::Score { continuations } => DecodingState::Score(Scoring::new(continuations.clone())),
        };
        Ok(Self { rows: vec![row], state })
    }

    /// Admits the generation of a continuation to the decoder.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn begin(
        decoder: &mut Decoder,
        prompt: &[u32],
        media: &[Arc<MediaKv>],
        generation: &Generation,
        stop_criteria: &StopCriteria,
    ) -> Result<Self> {
        Self::start(decoder, &SequenceRequest::generate(prompt, media, generation, stop_criteria), None)
    }

    /// As [`next`](Self::next), for a sequence that generates.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn advance(&mut self, decoder: &mut Decoder, scores: &[Scores]) -> Result<Option<Completion>> {
        Ok(match self.next(decoder, scores)? {
            Some(Output::Completion(completion)) => Some(completion),
            Some(Output::LogLikelihoods(_)) | None => None,
        })
    }

    /// Chooses the next tokens from the scores of a decoder step. Returns the output when it is complete, and retires the
    /// rows. Does nothing while the prompt is still in prefill.
    ///
    /// # Errors
    /// The scores are no distribution.
    pub fn next(&mut self, decoder: &mut Decoder, scores: &[Scores]) -> Result<Option<Output>> {
        let output = match &mut self.state {
            DecodingState::Score(scoring) => {
                scoring.advance(decoder, &mut self.rows, scores).map(Output::LogLikelihoods)
            }
            DecodingState::Sample(sampler, stop_criteria) => {
                let Some(scores) = find(scores, self.rows[0]) else { return Ok(None) };
                let (token, completion) = sampler.next(&scores.log_probs, stop_criteria)?;
                if let Some(token) = token {
                    decoder.push(self.rows[0], token);
                }
                completion.map(Output::Completion)
            }
            DecodingState::BeamSearch(search, stop_criteria) => {
                // All rows of a beam search are scored in the same step.
                let log_probs: Option<Vec<&[f32]>> =
                    self.rows.iter().map(|&row| Some(&find(scores, row)?.log_probs[..])).collect();
                let Some(log_probs) = log_probs else { return Ok(None) };
                let parents = search.advance(&log_probs, stop_criteria);
                let completion = search.best_if_done();
                if completion.is_none() {
                    self.rows = reorder(decoder, &self.rows, &parents);
                    for (&row, token) in self.rows.iter().zip(search.last_tokens()) {
                        decoder.push(row, token);
                    }
                }
                completion.map(Output::Completion)
            }
        };
        if output.is_some() {
            self.retire(decoder);
        }
        Ok(output)
    }

    /// Retires the rows: cancels the sequence.
    pub fn retire(&mut self, decoder: &mut Decoder) {
        self.rows.drain(..).for_each(|row| decoder.retire(row));
    }
}

impl DecodingState {
    fn generate(generation: &Generation, stop_criteria: StopCriteria) -> Self {
        let new_tokens = generation.max_new_tokens;
        match generation.strategy {
            Strategy::Beam { beams, length_penalty } if beams > 1 => {
                DecodingState::BeamSearch(BeamSearch::new(beams, length_penalty, new_tokens), stop_criteria)
            }
            Strategy::Greedy {} | Strategy::Beam { .. } => {
                DecodingState::Sample(Box::new(Sampler::greedy(new_tokens)), stop_criteria)
            }
            Strategy::Sample { temperature, top_k, top_p, seed } => {
                let sampler = Sampler::sampled(temperature, top_k, top_p, seed, new_tokens);
                DecodingState::Sample(Box::new(sampler), stop_criteria)
            }
        }
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
