//! Writing text: rows that are admitted, stepped, forked and retired, and the strategies on top of them.
//!
//! [`Decoder`] is the only decode loop there is. One answer is a batch of one row; a beam search is a few rows that
//! share a prompt; an engine that serves many requests is a policy about which rows to admit.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Flamingo, MediaKeys, RowInput, RowState};

mod beam;
mod sample;

/// Prompts go through the model in pieces of this many tokens: bounds the memory of their attention scores.
const PREFILL_CHUNK: usize = 512;

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

/// A row of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(u64);

/// A batch of rows over one model.
pub struct Decoder<'m> {
    model: &'m Flamingo,
    rows: BTreeMap<RowId, Row>,
    next_id: u64,
    prefill_chunk: usize,
}

struct Row {
    state: RowState,
    /// Tokens that the model has not seen yet.
    pending: Vec<u32>,
    /// Room to open once the prompt is through; 0 afterwards.
    room: usize,
}

/// A row's scores of the next token.
pub struct Scores {
    pub row: RowId,
    /// Log-probability of every token of the vocabulary.
    pub log_probs: Vec<f32>,
}

impl<'m> Decoder<'m> {
    pub fn new(model: &'m Flamingo) -> Self {
        Self { model, rows: BTreeMap::new(), next_id: 0, prefill_chunk: PREFILL_CHUNK }
    }

    /// The same with another size of the pieces in which prompts are read; at least 1.
    pub fn with_prefill_chunk(self, tokens: usize) -> Self {
        Self { prefill_chunk: tokens.max(1), ..self }
    }

    /// A new row: a prompt, its media in order, and room for `max_new_tokens` more.
    ///
    /// # Errors
    /// An empty prompt, one that with its answer reaches beyond the language model, an unknown token, or another number
    /// of media markers than of media.
    pub fn admit(
        &mut self,
        prompt: Vec<u32>,
        media: Vec<Arc<MediaKeys>>,
        max_new_tokens: usize,
    ) -> Result<RowId> {
        let limit = self.model.language().max_positions();
        if prompt.is_empty() || prompt.len().saturating_add(max_new_tokens) > limit {
            let tokens = prompt.len();
            return Err(Error::Prompt(format!(
                "a prompt of {tokens} tokens and an answer of up to {max_new_tokens} do not fit 1 to {limit} tokens"
            )));
        }
        self.model.check_markers(&prompt, media.len())?;
        let state = self.model.row(media, prompt.len())?;
        Ok(self.insert(Row { state, pending: prompt, room: max_new_tokens }))
    }

    /// Appends a token to a row that has been stepped.
    pub fn push(&mut self, row: RowId, token: u32) {
        self.row_mut(row).pending.push(token);
    }

    /// A second row with the same past; what both have read so far is shared.
    pub fn fork(&mut self, row: RowId) -> Result<RowId> {
        let parent = &self.rows[&row];
        let child = Row { state: parent.state.fork()?, pending: parent.pending.clone(), room: parent.room };
        Ok(self.insert(child))
    }

    /// Forgets a row and frees what only it held.
    pub fn retire(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    /// One pass over all rows with pending tokens: -> the scores of those whose tokens are all read, in order of
    /// admission. A long prompt takes several steps; other rows go on meanwhile.
    pub fn step(&mut self) -> Result<Vec<Scores>> {
        let mut chunks = Vec::new();
        for (&id, row) in &mut self.rows {
            if !row.pending.is_empty() {
                let rest = row.pending.split_off(row.pending.len().min(self.prefill_chunk));
                chunks.push((id, std::mem::replace(&mut row.pending, rest)));
            }
        }
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let (ready, last) = self.forward(&chunks)?;
        let Some(last) = last else { return Ok(Vec::new()) };
        let log_probs =
            candle_nn::ops::log_softmax(&self.model.logits(&last)?, D::Minus1)?.to_vec2::<f32>()?;
        Ok(ready.into_iter().zip(log_probs).map(|(row, log_probs)| Scores { row, log_probs }).collect())
    }

    /// The rows that have read everything, and the last hidden state of each (rows, d).
    fn forward(&mut self, chunks: &[(RowId, Vec<u32>)]) -> Result<(Vec<RowId>, Option<Tensor>)> {
        let mut inputs: Vec<RowInput> = self
            .rows
            .iter_mut()
            .filter_map(|(id, row)| Some((chunks.binary_search_by_key(id, |c| c.0).ok()?, row)))
            .map(|(i, row)| RowInput { ids: &chunks[i].1, state: &mut row.state })
            .collect();
        let hidden = self.model.forward(&mut inputs, None)?;
        let (mut ready, mut last, mut end) = (Vec::new(), Vec::new(), 0);
        for (id, chunk) in chunks {
            end += chunk.len();
            let row = self.rows.get_mut(id).expect("a stepped row is there");
            if row.pending.is_empty() {
                if row.room > 0 {
                    row.state.cache.freeze(std::mem::take(&mut row.room))?;
                }
                ready.push(*id);
                last.push(end as u32 - 1);
            }
        }
        if last.is_empty() {
            return Ok((ready, None));
        }
        let last = Tensor::new(last, hidden.device())?;
        Ok((ready, Some(hidden.index_select(&last, 0)?)))
    }

    fn insert(&mut self, row: Row) -> RowId {
        let id = RowId(self.next_id);
        self.next_id += 1;
        self.rows.insert(id, row);
        id
    }

    fn row_mut(&mut self, row: RowId) -> &mut Row {
        self.rows.get_mut(&row).expect("a row is not used after it was retired")
    }
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
    let mut decoder = Decoder::new(model);
    let row = decoder.admit(prompt.to_vec(), media.to_vec(), generation.max_new_tokens)?;
    match generation.strategy {
        Strategy::Beam { beams, length_penalty } if beams > 1 => {
            beam::search(&mut decoder, row, beams, length_penalty, generation.max_new_tokens, rules)
        }
        Strategy::Greedy {} | Strategy::Beam { .. } => {
            sample::draw(&mut decoder, row, None, generation.max_new_tokens, rules)
        }
        Strategy::Sample { temperature, top_k, top_p, seed } => {
            let chooser = sample::chooser(temperature, top_k, top_p, seed);
            sample::draw(&mut decoder, row, Some(chooser), generation.max_new_tokens, rules)
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
    let mut decoder = Decoder::new(model);
    let prompt = decoder.admit(prompt.to_vec(), media.to_vec(), longest)?;
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
                let mut state = decoder.rows[&prompt].state.fork()?;
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
