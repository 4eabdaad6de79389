//! The batch of rows that are being written: the only decode loop there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::language::KvPool;
use crate::language::kv_cache::{BLOCK, blocks_for};
use crate::model::{Flamingo, MediaBeside, MediaKeys, RowInput, RowState};

/// Prompts go through the model in pieces of this many tokens: bounds the memory of their attention scores. A step takes
/// as many pieces as fit into this number, so that rows which are being written wait for no long prompt.
const PREFILL_CHUNK: usize = 512;

/// A row of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(u64);

/// What a prompt and all that is written after it may come to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Tokens of the prompt, which all rows share.
    pub prompt: usize,
    /// Tokens that each row may write.
    pub new_tokens: usize,
    /// Rows at once.
    pub rows: usize,
}

impl Demand {
    /// Blocks of keys and values, at most: full ones of the prompt once, the rest once for each row.
    pub fn blocks(&self) -> usize {
        let shared = self.prompt / BLOCK;
        shared + self.rows * blocks_for(self.prompt % BLOCK + self.new_tokens)
    }
}

/// A batch of rows over one model, with the memory of their past.
pub struct Decoder<'m> {
    model: &'m Flamingo,
    pool: KvPool,
    rows: BTreeMap<RowId, Row>,
    next_id: u64,
    prefill_chunk: usize,
    beside: MediaBeside,
}

struct Row {
    state: RowState,
    /// Tokens that the model has not seen yet.
    pending: Vec<u32>,
    /// The row that was admitted, of which this one is a fork or which it is itself; and the blocks promised to all of
    /// its forks together.
    family: RowId,
    promised: usize,
}

/// A row's scores of the next token.
pub struct Scores {
    pub row: RowId,
    /// Log-probability of every token of the vocabulary.
    pub log_probs: Vec<f32>,
}

impl<'m> Decoder<'m> {
    /// A decoder whose rows hold at most `blocks` blocks of keys and values together.
    ///
    /// # Errors
    /// The device has no room for them.
    pub fn new(model: &'m Flamingo, blocks: usize) -> Result<Self> {
        let pool = KvPool::new(&model.language().cache_shape(), blocks)?;
        Ok(Self {
            model,
            pool,
            rows: BTreeMap::new(),
            next_id: 0,
            prefill_chunk: PREFILL_CHUNK,
            beside: MediaBeside::default(),
        })
    }

    /// The same with another size of the pieces in which prompts are read; at least 1.
    pub fn with_prefill_chunk(self, tokens: usize) -> Self {
        Self { prefill_chunk: tokens.max(1), ..self }
    }

    /// Blocks that there are.
    pub fn blocks(&self) -> usize {
        self.pool.blocks()
    }

    /// Blocks that are promised to nobody.
    pub fn free_blocks(&self) -> usize {
        let promised: BTreeMap<RowId, usize> =
            self.rows.values().map(|row| (row.family, row.promised)).collect();
        self.pool.blocks().saturating_sub(promised.values().sum())
    }

    /// Rows that there are.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// A new row: a prompt, its media in order, and room for `new_tokens` more in each of up to `rows` rows, itself and
    /// its forks.
    ///
    /// # Errors
    /// An empty prompt, one that with its answer reaches beyond the language model, an unknown token, another number of
    /// media markers than of media; or [`Error::OverBudget`]: so much is not free.
    pub fn admit(
        &mut self,
        prompt: Vec<u32>,
        media: Vec<Arc<MediaKeys>>,
        new_tokens: usize,
        rows: usize,
    ) -> Result<RowId> {
        check_length(self.model, prompt.len(), new_tokens)?;
        self.model.check_markers(&prompt, media.len())?;
        let demand = Demand { prompt: prompt.len(), new_tokens, rows };
        let (blocks, free) = (demand.blocks(), self.free_blocks());
        if blocks > free {
            return Err(Error::OverBudget(format!("{}, {free} are free", describe(&demand))));
        }
        let state = self.model.row(media, &self.pool);
        let family = RowId(self.next_id);
        Ok(self.insert(Row { state, pending: prompt, family, promised: blocks }))
    }

    /// Appends a token to a row that has been stepped.
    pub fn push(&mut self, row: RowId, token: u32) {
        self.row_mut(row).pending.push(token);
    }

    /// A second row with the same past; what both have read so far is shared.
    pub fn fork(&mut self, row: RowId) -> RowId {
        let Row { state, pending, family, promised } = self.row_mut(row);
        let child =
            Row { state: state.clone(), pending: pending.clone(), family: *family, promised: *promised };
        self.insert(child)
    }

    /// Forgets a row and frees what only it held.
    pub fn retire(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    /// One pass over rows with pending tokens: -> the scores of those whose tokens are all read, in order of admission.
    /// Rows that are being written always go on; prompts take turns, so a long one or many take several steps.
    ///
    /// # Errors
    /// The model refuses: what the rows have read is uncertain then, so the decoder is of no more use.
    pub fn step(&mut self) -> Result<Vec<Scores>> {
        let chunks = self.next_chunks();
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.forward(&chunks)?;
        let (mut ready, mut last, mut end) = (Vec::new(), Vec::new(), 0);
        for (id, read) in chunks {
            end += read;
            let row = self.row_mut(id);
            row.pending.drain(..read);
            if row.pending.is_empty() {
                ready.push(id);
                last.push(end as u32 - 1);
            }
        }
        if last.is_empty() {
            return Ok(Vec::new());
        }
        let last = hidden.index_select(&Tensor::new(last, hidden.device())?, 0)?;
        let log_probs = log_probabilities(&self.model.logits(&last)?)?;
        let mut scores: Vec<_> =
            ready.into_iter().zip(log_probs).map(|(row, log_probs)| Scores { row, log_probs }).collect();
        scores.sort_by_key(|scores| scores.row);
        Ok(scores)
    }

    /// How many of its pending tokens each row reads next. Rows of one token come first, so that they attend together.
    fn next_chunks(&self) -> Vec<(RowId, usize)> {
        let pending = || self.rows.iter().filter(|(_, row)| !row.pending.is_empty());
        let steps = pending().filter(|(_, row)| row.pending.len() == 1).map(|(&id, _)| (id, 1));
        let mut left = self.prefill_chunk;
        let prompts = pending().filter(|(_, row)| row.pending.len() > 1).map_while(|(&id, row)| {
            let piece = row.pending.len().min(self.prefill_chunk);
            left = left.checked_sub(piece)?;
            Some((id, piece))
        });
        steps.chain(prompts).collect()
    }

    fn forward(&mut self, chunks: &[(RowId, usize)]) -> Result<Tensor> {
        let place: BTreeMap<RowId, usize> = chunks.iter().enumerate().map(|(i, (id, _))| (*id, i)).collect();
        let mut inputs: Vec<(usize, RowInput)> = self
            .rows
            .iter_mut()
            .filter_map(|(id, row)| Some((*place.get(id)?, row)))
            .map(|(i, row)| (i, RowInput { ids: &row.pending[..chunks[i].1], state: &mut row.state }))
            .collect();
        inputs.sort_by_key(|(place, _)| *place);
        let mut inputs: Vec<RowInput> = inputs.into_iter().map(|(_, input)| input).collect();
        self.model.step(&mut inputs, &mut self.beside)
    }

    pub(super) fn state(&self, row: RowId) -> &RowState {
        &self.rows[&row].state
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

/// Scores (n, vocabulary) -> log-probabilities of each row, off the device.
fn log_probabilities(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    if !logits.device().is_cpu() {
        return Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.to_vec2()?);
    }
    // On the CPU candle goes through the vocabulary five times, in one thread.
    let mut rows = logits.to_vec2::<f32>()?;
    rows.par_iter_mut().for_each(|row| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from((x - most).exp())).sum();
        let norm = most + sum.ln() as f32;
        row.iter_mut().for_each(|x| *x -= norm);
    });
    Ok(rows)
}

/// Refuses what the positions of the language model do not reach.
///
/// # Errors
/// [`Error::Prompt`] with the numbers.
pub fn check_length(model: &Flamingo, prompt: usize, new_tokens: usize) -> Result<()> {
    let limit = model.language().max_positions();
    if prompt == 0 || prompt.saturating_add(new_tokens) > limit {
        return Err(Error::Prompt(format!(
            "a prompt of {prompt} tokens and an answer of up to {new_tokens} do not fit 1 to {limit} tokens"
        )));
    }
    Ok(())
}

/// What is asked for, in words.
pub fn describe(demand: &Demand) -> String {
    let Demand { prompt, new_tokens, rows } = demand;
    let blocks = demand.blocks();
    format!(
        "a prompt of {prompt} tokens and {rows} rows of up to {new_tokens} more need {blocks} blocks of {BLOCK} tokens"
    )
}
