//! Writing text: rows that are admitted, stepped, forked and retired, and the strategies on top of them.
//!
//! [`Decoder`] is the only decode loop there is. One answer is a [`Sequence`] of one row, a beam search one of a few rows
//! that share a prompt; an engine that serves many requests is a policy about which sequences to begin.

use std::sync::Arc;

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Flamingo, MediaKeys, RowInput};

pub mod decoder;
mod beam;
mod sample;
pub mod sequence;

pub use decoder::{Decoder, Demand, RowId, Scores, check_length, describe};
pub use sequence::Sequence;

/// How the next token is chosen, and when to stop.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    pub strategy: Strategy,
    pub max_new_tokens: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Strategy {
    /// The likeliest token, each time.
    // With braces: next to a bare name serde would take any field.
    Greedy {},
    /// Beam search with the semantics of Hugging Face (`early_stopping=False`). A finished beam of n tokens scores
    /// `log_likelihood / n^length_penalty`; 0 compares bare log-likelihoods, as the paper does.
    Beam { beams: usize, length_penalty: f64 },
    /// Seeded sampling from the `top_k` likeliest tokens (0: all) that together hold `top_p` of the probability.
    Sample { temperature: f64, top_k: usize, top_p: f64, seed: u64 },
}

/// More than any search needs, and few enough that their caches fit.
const MAX_BEAMS: usize = 64;

impl Generation {
    /// Refuses what means nothing.
    ///
    /// # Errors
    /// [`Error::Prompt`] with the setting and its value.
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
    /// The paper's open-ended evaluation: 3 beams.
    fn default() -> Self {
        Self { strategy: Strategy::Beam { beams: 3, length_penalty: 0.0 }, max_new_tokens: 32 }
    }
}

/// The tokens that end an answer and those that must never be written.
#[derive(Debug, Clone, Default)]
pub struct TokenRules {
    pub stop: Vec<u32>,
    pub forbidden: Vec<u32>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Without the token that ended it.
    pub ids: Vec<u32>,
    /// Of all tokens, the ending one included.
    pub log_likelihood: f64,
    pub finish: Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended the chunk.
    Stop,
    /// The limit of new tokens was reached.
    Length,
}

/// Continues a prompt that sees `media`, as `generation` says.
///
/// # Errors
/// As [`Decoder::admit`] and [`Flamingo::forward`].
pub fn generate(
    model: &Flamingo,
    prompt: &[u32],
    media: &[Arc<MediaKeys>],
    generation: &Generation,
    rules: &TokenRules,
) -> Result<Generated> {
    generation.check()?;
    check_length(model, prompt.len(), generation.max_new_tokens)?;
    let mut decoder = Decoder::new(model, Sequence::demand(prompt.len(), generation).blocks())?;
    let mut sequence = Sequence::begin(&mut decoder, prompt, media, generation, rules)?;
    loop {
        let scores = decoder.step()?;
        if let Some(written) = sequence.advance(&mut decoder, &scores)? {
            return Ok(written);
        }
    }
}

/// Log-likelihood of each continuation after the prompt. The prompt is read once and shared.
///
/// # Errors
/// An empty continuation; else as [`generate`].
pub fn score(
    model: &Flamingo,
    prompt: &[u32],
    media: &[Arc<MediaKeys>],
    continuations: &[Vec<u32>],
) -> Result<Vec<f64>> {
    let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
    model.check_markers(&continuations.concat(), 0)?;
    if continuations.iter().any(Vec::is_empty) {
        return Err(Error::Prompt("an empty continuation has no likelihood".into()));
    }
    check_length(model, prompt.len(), longest)?;
    // Two rows: the prompt, and the one continuation that is being read.
    let demand = Demand { prompt: prompt.len(), new_tokens: longest, rows: 2 };
    let mut decoder = Decoder::new(model, demand.blocks())?;
    let prompt = decoder.admit(prompt.to_vec(), media.to_vec(), longest, demand.rows)?;
    let first = loop {
        if let Some(scores) = decoder.step()?.pop() {
            break scores.log_probs;
        }
    };
    continuations
        .iter()
        .map(|ids| {
            let mut sum = f64::from(first[ids[0] as usize]);
            if let [given @ .., _] = &ids[..]
                && !given.is_empty()
            {
                let mut state = decoder.state(prompt).clone();
                let hidden = model.forward(&mut [RowInput { ids: given, state: &mut state }], None)?;
                let log_probs = candle_nn::ops::log_softmax(&model.logits(&hidden)?, D::Minus1)?;
                let targets = Tensor::new(&ids[1..], hidden.device())?.unsqueeze(1)?;
                let chosen = log_probs.gather(&targets, 1)?.flatten_all()?.to_vec1::<f32>()?;
                sum += chosen.into_iter().map(f64::from).sum::<f64>();
            }
            Ok(sum)
        })
        .collect()
}
