//! One sequence: its rows in a decoder, and the strategy that chooses or scores their tokens.

use std::sync::Arc;

use super::beam::BeamSearch;
use super::decoder::{Decoder, PrefixId};
use super::reservation::{KvReservation, check_length};
use super::sample::Sampler;
use super::score::Scoring;
use super::scores::{RowId, Scores, find};
use super::{Completion, Generation, StopCriteria, Strategy};
use crate::error::{Error, Result};
use crate::model::{Flamingo, MediaKv};

/// Plan of one sequence: its prompt and its goal, without its media.
#[derive(Debug, Clone)]
pub struct SequencePlan {
    /// Token ids of the whole prompt.
    pub prompt: Vec<u32>,
    /// Number of first tokens that form a prefix; plans with equal prefixes can share it. Prefill splits after it.
    pub prefix_len: usize,
    /// Goal of the sequence.
    pub goal: Goal,
}

/// Request for one sequence: its plan and its media.
#[derive(Debug, Clone)]
pub struct SequenceRequest {
    /// Prompt and goal.
    pub plan: SequencePlan,
    /// Media of the prompt in order.
    pub media: Vec<Arc<MediaKv>>,
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

impl Output {
    /// Returns the completion.
    ///
    /// # Errors
    /// The sequence had another goal.
    pub fn into_completion(self) -> Result<Completion> {
        match self {
            Output::Completion(completion) => Ok(completion),
            Output::LogLikelihoods(_) => Err(Error::Prompt("the sequence was scored, not generated".into())),
        }
    }

    /// Returns the log-likelihoods.
    ///
    /// # Errors
    /// The sequence had another goal.
    pub fn into_log_likelihoods(self) -> Result<Vec<f64>> {
        match self {
            Output::LogLikelihoods(log_likelihoods) => Ok(log_likelihoods),
            Output::Completion(_) => Err(Error::Prompt("the sequence was generated, not scored".into())),
        }
    }
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

impl SequencePlan {
    /// Returns the plan to generate a continuation of a prompt without a prefix.
    pub fn generate(prompt: &[u32], generation: &Generation, stop_criteria: &StopCriteria) -> Self {
        let (generation, stop_criteria) = (generation.clone(), stop_criteria.clone());
        let goal = Goal::Generate { generation, stop_criteria };
        Self { prompt: prompt.to_vec(), prefix_len: 0, goal }
    }

    /// Returns the plan to score continuations of a prompt without a prefix.
    pub fn score(prompt: &[u32], continuations: &[Vec<u32>]) -> Self {
        let goal = Goal::Score { continuations: continuations.to_vec() };
        Self { prompt: prompt.to_vec(), prefix_len: 0, goal }
    }

    /// Returns the request for this sequence over `media`.
    pub fn over(self, media: Vec<Arc<MediaKv>>) -> SequenceRequest {
        SequenceRequest { plan: self, media: media.into_iter().flat_map(MediaKv::into_pictures).collect() }
    }

    /// Returns the KV blocks to reserve for the sequence if it shares no prefix.
    pub fn reservation(&self) -> KvReservation {
        let prompt = self.prompt.len();
        match &self.goal {
            Goal::Generate { generation, .. } => {
                KvReservation { prompt, new_tokens: generation.max_new_tokens, rows: generation.rows() }
            }
            Goal::Score { continuations } => Scoring::reservation(prompt, continuations),
        }
    }

    /// Checks the goal and the lengths.
    ///
    /// # Errors
    /// A setting is invalid, a continuation is empty, or the prompt and its answer are too long for the model.
    pub fn check(&self, model: &Flamingo) -> Result<()> {
        match &self.goal {
            Goal::Generate { generation, .. } => generation.check()?,
            Goal::Score { continuations } => Scoring::check(model, continuations)?,
        }
        let KvReservation { prompt, new_tokens, .. } = self.reservation();
        check_length(model, prompt, new_tokens)
    }
}

impl SequenceRequest {
    /// Checks the request.
    ///
    /// # Errors
    /// As [`SequencePlan::check`]; or the prompt has another number of media markers than there are media.
    pub fn check(&self, model: &Flamingo) -> Result<()> {
        self.plan.check(model)?;
        model.check_markers(&self.plan.prompt, self.media.len())
    }
}

impl Sequence {
    /// Admits the sequence to the decoder. With `prefix`, the first `prefix_len` tokens and their media are those of the
    /// prefix, which the decoder has admitted.
    ///
    /// # Errors
    /// A setting is invalid; else as [`Decoder::admit`].
    pub fn begin(decoder: &mut Decoder, request: &SequenceRequest, prefix: Option<PrefixId>) -> Result<Self> {
        request.check(decoder.model())?;
        let SequenceRequest { plan, media } = request;
        let KvReservation { new_tokens, rows, .. } = plan.reservation();
        let (shared, rest) = plan.prompt.split_at(plan.prefix_len);
        let row = match prefix {
            None => {
                decoder.admit_split(plan.prompt.clone(), plan.prefix_len, media.clone(), new_tokens, rows)?
            }
            Some(prefix) => {
                let media = media[decoder.model().count_markers(shared)..].to_vec();
                decoder.admit_after(prefix, rest.to_vec(), media, new_tokens, rows)?
            }
        };
        let state = match &plan.goal {
            Goal::Generate { generation, stop_criteria } => {
                DecodingState::generate(generation, stop_criteria.clone())
            }
            Goal::Score { continuations } => DecodingState::Score(Scoring::new(continuations.clone())),
        };
        Ok(Self { rows: vec![row], state })
    }

    /// Chooses the next tokens from the scores of a decoder step. Returns the output when it is complete, and retires the
    /// rows. Does nothing while the prompt is still in prefill.
    ///
    /// # Errors
    /// The scores are no distribution.
    pub fn advance(&mut self, decoder: &mut Decoder, scores: &[Scores]) -> Result<Option<Output>> {
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
