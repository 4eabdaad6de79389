//! Generation of text: a batch of rows that are admitted, stepped, forked and retired, and the strategies on top of it.
//!
//! [`Decoder`] is the only decode loop. One answer is a [`Sequence`]: one row, or several rows that share a prompt for beam
//! search or for the continuations to score. [`run`] is a batch of sequences; an engine that serves many requests is a
//! policy that decides which sequences to begin.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Flamingo, MediaKv};

pub mod reservation;
pub mod scores;
pub mod decoder;
mod beam;
mod sample;
mod score;
pub mod sequence;
pub mod prefix;
pub mod batch;

pub use batch::{run, run_until};
pub use decoder::{Decoder, PrefixId};
pub use prefix::Prefix;
pub use reservation::{KvReservation, check_length, describe};
pub use scores::{RowId, Scores};
pub use sequence::{Goal, Output, Sequence, SequencePlan, SequenceRequest};

/// Settings of generation: how to choose the next token, and when to stop.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Choice of the next token.
    pub strategy: Strategy,
    /// Length limit of the answer in tokens.
    pub max_new_tokens: usize,
}

/// Decoding strategy.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Strategy {
    /// Takes the likeliest token at each step.
    // With braces: serde accepts any field for a unit variant.
    Greedy {},
    /// Beam search with the semantics of Hugging Face (`early_stopping=False`). A finished beam of n tokens scores
    /// `log_likelihood / n^length_penalty`; 0 compares bare log-likelihoods, as the paper does.
    Beam {
        /// Beams that stay open.
        beams: usize,
        /// Exponent of the length in the score.
        length_penalty: f64,
    },
    /// Seeded sampling from the `top_k` likeliest tokens (0: all) that together hold `top_p` of the probability.
    Sample {
        /// Divisor of the logits; above 0.
        temperature: f64,
        /// Number of likeliest tokens to sample from; 0: all.
        top_k: usize,
        /// Probability that the sampled tokens hold together, in (0, 1].
        top_p: f64,
        /// Seed of the random numbers.
        seed: u64,
    },
}

/// Limit of beams: more than any search needs, and few enough that their KV caches fit.
const MAX_BEAMS: usize = 64;

impl Generation {
    /// Returns the number of rows of one answer, at most.
    pub fn rows(&self) -> usize {
        match self.strategy {
            Strategy::Beam { beams, .. } => beams,
            Strategy::Greedy {} | Strategy::Sample { .. } => 1,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Prompt`] with the invalid setting and its value.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Prompt(what));
        if self.max_new_tokens == 0 {
            return refuse("an answer of at most 0 tokens".into());
        }
        match self.strategy {
            Strategy::Beam { beams, .. } if !(1..=MAX_BEAMS).contains(&beams) => {
                refuse(format!("{beams} beams, not 1 to {MAX_BEAMS}"))
            }
            Strategy::Beam { length_penalty, .. } if !length_penalty.is_finite() => {
                refuse(format!("a length penalty of {length_penalty}"))
            }
            Strategy::Sample { temperature, .. } if !(temperature.is_finite() && temperature > 0.0) => {
                refuse(format!("sampling at a temperature of {temperature}"))
            }
            Strategy::Sample { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                refuse(format!("sampling from the likeliest {top_p} of all probability"))
            }
            Strategy::Greedy {} | Strategy::Beam { .. } | Strategy::Sample { .. } => Ok(()),
        }
    }
}

impl Default for Generation {
    /// Returns the settings of the paper's open-ended evaluation: 3 beams.
    fn default() -> Self {
        Self { strategy: Strategy::Beam { beams: 3, length_penalty: 0.0 }, max_new_tokens: 32 }
    }
}

/// Tokens that end an answer and tokens that are never generated.
#[derive(Debug, Clone, Default)]
pub struct StopCriteria {
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// Tokens that are never generated.
    pub suppressed: Vec<u32>,
}

/// Generated tokens of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Token ids, without the token that ended the answer.
    pub ids: Vec<u32>,
    /// Natural log-likelihood of all tokens, including the one that ended the answer.
    pub log_likelihood: f64,
    /// Reason for the end.
    pub finish: Finish,
}

/// Reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model generated a stop token.
    Stop,
    /// The answer reached the limit of new tokens.
    Length,
}

/// Generates the continuation of a prompt over `media` with the settings `generation`.
///
/// # Errors
/// As [`Decoder::admit`] and [`Flamingo::forward`].
pub fn generate(
    model: &Flamingo,
    prompt: &[u32],
    media: &[Arc<MediaKv>],
    generation: &Generation,
    stop_criteria: &StopCriteria,
) -> Result<Completion> {
    let plan = SequencePlan::generate(prompt, generation, stop_criteria);
    run(model, &[plan.over(media.to_vec())]).remove(0)?.into_completion()
}

/// Computes the log-likelihood of each continuation of the prompt. The prompt is prefilled once and shared.
///
/// # Errors
/// A continuation is empty; else as [`generate`].
pub fn score(
    model: &Flamingo,
    prompt: &[u32],
    media: &[Arc<MediaKv>],
    continuations: &[Vec<u32>],
) -> Result<Vec<f64>> {
    if continuations.is_empty() {
        return Ok(Vec::new());
    }
    let plan = SequencePlan::score(prompt, continuations);
    run(model, &[plan.over(media.to_vec())]).remove(0)?.into_log_likelihoods()
}
