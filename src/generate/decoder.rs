//! The batch of rows in generation: the only decode loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::language::KvPool;
use crate::language::kv_cache::{BLOCK, blocks_for};
use crate::model::{BatchedMediaKv, Flamingo, MediaKv, RowInput, RowState};

/// Tokens of one prefill chunk: bounds the memory of its attention scores. All chunks of one step fit into this number
/// together, so that a long prompt does not delay rows in decode.
const PREFILL_CHUNK: usize = 512;

/// Identity of a row of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(u64);

/// Reservation of KV blocks (16 tokens each) for a prompt and all tokens generated after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvReservation {
    /// Prompt tokens, which all rows share.
    pub prompt: usize,
    /// New tokens per row, at most.
    pub new_tokens: usize,
    /// Rows at the same time, at most.
    pub rows: usize,
}

impl KvReservation {
    /// Returns the number of blocks, at most: full blocks of the prompt once, the rest once per row.
    pub fn blocks(&self) -> usize {
        let shared = self.prompt / BLOCK;
        shared + self.rows * blocks_for(self.prompt % BLOCK + self.new_tokens)
    }
}

/// A batch of rows over one model, with their KV pool.
pub struct Decoder<'m> {
    model: &'m Flamingo,
    pool: KvPool,
    rows: BTreeMap<RowId, Row>,
    next_id: u64,
    prefill_chunk: usize,
    packed_media: BatchedMediaKv,
}

struct Row {
    state: RowState,
    /// Tokens that the model has not processed yet.
    pending: Vec<u32>,
    /// Sequence group: the id of the admitted row from which this one was forked, or its own.
    group: RowId,
    /// Blocks reserved for the whole group.
    reserved_blocks: usize,
}

/// Scores of the next token of one row.
pub struct Scores {
    /// The row.
    pub row: RowId,
    /// Log-probability of every token of the vocabulary.
    pub log_probs: Vec<f32>,
}

impl<'m> Decoder<'m> {
    /// Creates a decoder with a pool of `blocks` KV blocks.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(model: &'m Flamingo, blocks: usize) -> Result<Self> {
        let pool = KvPool::new(&model.language().cache_shape(), blocks)?;
        Ok(Self {
            model,
            pool,
            rows: BTreeMap::new(),
            next_id: 0,
            prefill_chunk: PREFILL_CHUNK,
            packed_media: BatchedMediaKv::default(),
        })
    }

    /// Sets the size of prefill chunks in tokens; at least 1.
    pub fn with_prefill_chunk(self, tokens: usize) -> Self {
        Self { prefill_chunk: tokens.max(1), ..self }
    }

    /// Returns the number of KV blocks, reserved or not.
    pub fn blocks(&self) -> usize {
        self.pool.blocks()
    }

    /// Returns the number of blocks that are not reserved.
    pub fn free_blocks(&self) -> usize {
        let reserved_blocks: BTreeMap<RowId, usize> =
            self.rows.values().map(|row| (row.group, row.reserved_blocks)).collect();
        self.pool.blocks().saturating_sub(reserved_blocks.values().sum())
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Admits a new row: a prompt and its media in order. Reserves room for `new_tokens` more tokens in each of up to `rows`
    /// rows, itself and its forks.
    ///
    /// # Errors
    /// The prompt is empty, is too long together with its answer, has an unknown token, or has another number of media
    /// markers than there are media; [`Error::OverBudget`]: too few blocks are free.
    pub fn admit(
        &mut self,
        prompt: Vec<u32>,
        media: Vec<Arc<MediaKv>>,
        new_tokens: usize,
        rows: usize,
    ) -> Result<RowId> {
        check_length(self.model, prompt.len(), new_tokens)?;
        self.model.check_markers(&prompt, media.len())?;
        let reservation = KvReservation { prompt: prompt.len(), new_tokens, rows };
        let (blocks, free) = (reservation.blocks(), self.free_blocks());
        if blocks > free {
            return Err(Error::OverBudget(format!("{}, {free} are free", describe(&reservation))));
        }
        let state = self.model.row(media, &self.pool);
        let group = RowId(self.next_id);
        Ok(self.insert(Row { state, pending: prompt, group, reserved_blocks: blocks }))
    }

    /// Appends a token to a row that has no pending tokens.
    pub fn push(&mut self, row: RowId, token: u32) {
        self.row_mut(row).pending.push(token);
    }

    /// Forks a row. Both rows share the cached tokens.
    pub fn fork(&mut self, row: RowId) -> RowId {
        let Row { state, pending, group, reserved_blocks } = self.row_mut(row);
        let child = Row {
            state: state.clone(),
            pending: pending.clone(),
            group: *group,
            reserved_blocks: *reserved_blocks,
        };
        self.insert(child)
    }

    /// Removes a row and frees the blocks that no other row shares.
    pub fn retire(&mut self, row: RowId) {
        self.rows.remove(&row);
    }

    /// Runs one pass over rows with pending tokens. Returns the scores of rows without pending tokens left, in order of
    /// admission. Rows in decode advance in every step; prefill of long or many prompts takes several steps.
    ///
    /// # Errors
    /// The model fails. The state of the rows is undefined then: drop the decoder.
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

    /// Returns the number of pending tokens that each row processes next. Rows of one token come first, so that they attend
    /// in one product.
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
        self.model.step(&mut inputs, &mut self.packed_media)
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

/// Converts logits (n, vocabulary) to log-probabilities of each row, on the host.
fn log_probabilities(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    if !logits.device().is_cpu() {
        return Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.to_vec2()?);
    }
    // On the CPU candle's log_softmax makes five passes over the vocabulary, in one thread.
    let mut rows = logits.to_vec2::<f32>()?;
    rows.par_iter_mut().for_each(|row| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from((x - most).exp())).sum();
        let norm = most + sum.ln() as f32;
        row.iter_mut().for_each(|x| *x -= norm);
    });
    Ok(rows)
}

/// Checks that a prompt and its answer fit the positions of the language model.
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

/// Describes a reservation in words.
pub fn describe(reservation: &KvReservation) -> String {
    let KvReservation { prompt, new_tokens, rows } = reservation;
    let blocks = reservation.blocks();
    format!(
        "a prompt of {prompt} tokens and {rows} rows of up to {new_tokens} more need {blocks} blocks of {BLOCK} tokens"
    )
}
