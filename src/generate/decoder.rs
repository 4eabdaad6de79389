//! The batch of rows in generation: the only decode loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::reservation::{KvReservation, check_length, describe};
use super::scores::{RowId, Scores, log_probabilities, target_scores};
use crate::error::{Error, Result};
use crate::kernels::attention::Kv;
use crate::language::KvPool;
use crate::language::kv_cache::BLOCK;
use crate::model::{BatchedMediaKv, Flamingo, MediaKv, RowInput, RowState};

/// Tokens of one prefill chunk: bounds the memory of its attention scores. All chunks of one step fit into this number
/// together, so that a long prompt does not delay rows in decode.
const PREFILL_CHUNK: usize = 512;

/// A batch of rows over one model, with their KV pool. Rows may share a prefix, which is processed once.
pub struct Decoder<'m> {
    model: &'m Flamingo,
    pool: KvPool,
    rows: BTreeMap<RowId, Row>,
    next_id: u64,
    prefill_chunk: usize,
    packed_media: BatchedMediaKv,
}

/// Identity of a prefix of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixId(RowId);

#[derive(Clone)]
struct Row {
    role: Role,
    state: RowState,
    /// Tokens that the model has not processed yet.
    pending: Vec<u32>,
    /// Number of first pending tokens at whose end a chunk ends; 0: none. Prefill splits at the end of a prefix, shared or
    /// not, so that both give the same bits.
    split: usize,
    /// Tokens that follow the pending ones, each scored by the position before it. Empty for rows that are not scored.
    targets: Vec<u32>,
    /// Sequence group: the id of the admitted row from which this one was forked, or its own.
    group: RowId,
    /// Blocks reserved for the whole group.
    reserved_blocks: usize,
    /// Prefix that the row shares.
    prefix: Option<PrefixId>,
}

#[derive(Clone)]
enum Role {
    /// The row's next token is scored when it has no pending tokens.
    Sequence,
    /// The row waits for the end of its prefix, then takes over its tokens and adds these media.
    AfterPrefix(Vec<Arc<MediaKv>>),
    /// A prefix that rows share. `released`: it ends with its last row.
    Prefix { released: bool },
}

impl<'m> Decoder<'m> {
    /// Creates a decoder with a pool of `blocks` KV blocks.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(model: &'m Flamingo, blocks: usize) -> Result<Self> {
        let pool = KvPool::new(&model.language().sizes().cache, blocks)?;
        Ok(Self {
            model,
            pool,
            rows: BTreeMap::new(),
            next_id: 0,
            prefill_chunk: PREFILL_CHUNK,
            packed_media: BatchedMediaKv::default(),
        })
    }

    /// Returns the model.
    pub fn model(&self) -> &'m Flamingo {
        self.model
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
        self.admit_split(prompt, 0, media, new_tokens, rows)
    }

    /// As [`admit`](Self::admit), with a prefill that splits after `split` tokens (0: nowhere), as if these were a prefix.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn admit_split(
        &mut self,
        prompt: Vec<u32>,
        split: usize,
        media: Vec<Arc<MediaKv>>,
        new_tokens: usize,
        rows: usize,
    ) -> Result<RowId> {
        check_length(self.model, prompt.len(), new_tokens)?;
        self.model.check_markers(&prompt, media.len())?;
        let reserved_blocks = self.reserve(&KvReservation { prompt: prompt.len(), new_tokens, rows })?;
        let state = self.model.row(media, &self.pool);
        Ok(self.insert_new(Row { split, reserved_blocks, ..Row::new(Role::Sequence, state, prompt) }))
    }

    /// Admits a prefix: tokens and media that several rows share.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn admit_prefix(&mut self, ids: Vec<u32>, media: Vec<Arc<MediaKv>>) -> Result<PrefixId> {
        check_length(self.model, ids.len(), 0)?;
        self.model.check_markers(&ids, media.len())?;
        let reserved_blocks = self.reserve(&KvReservation { prompt: ids.len(), new_tokens: 0, rows: 1 })?;
        let state = self.model.row(media, &self.pool);
        let row = Row::new(Role::Prefix { released: false }, state, ids);
        Ok(PrefixId(self.insert_new(Row { reserved_blocks, ..row })))
    }

    /// Admits a prefix whose keys and values [`prefix_kv`](Self::prefix_kv) has returned.
    ///
    /// # Errors
    /// As [`admit`](Self::admit); or the keys and values have other shapes.
    pub fn admit_computed_prefix(
        &mut self,
        ids: &[u32],
        media: Vec<Arc<MediaKv>>,
        layers: &[Kv],
    ) -> Result<PrefixId> {
        check_length(self.model, ids.len(), 0)?;
        self.model.check_markers(ids, media.len())?;
        let reserved_blocks = self.reserve(&KvReservation { prompt: ids.len(), new_tokens: 0, rows: 1 })?;
        let state = self.model.computed_row(ids, media, layers, &self.pool)?;
        let row = Row::new(Role::Prefix { released: false }, state, Vec::new());
        Ok(PrefixId(self.insert_new(Row { reserved_blocks, ..row })))
    }

    /// Copies the keys and values of a prefix: (h_kv, n, d) each, per layer. `None`: they are not complete.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn prefix_kv(&self, prefix: PrefixId) -> Result<Option<Vec<Kv>>> {
        let row = &self.rows[&prefix.0];
        if row.pending.is_empty() { Ok(Some(row.state.cache.read()?)) } else { Ok(None) }
    }

    /// Admits a new row as [`admit`](Self::admit) does, whose prompt is a prefix and `ids`, and whose media are those of the
    /// prefix and `media`. Its prefill begins when the prefix is complete.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn admit_after(
        &mut self,
        prefix: PrefixId,
        ids: Vec<u32>,
        media: Vec<Arc<MediaKv>>,
        new_tokens: usize,
        rows: usize,
    ) -> Result<RowId> {
        let shared = self.prefix_len(prefix);
        check_length(self.model, if ids.is_empty() { 0 } else { shared + ids.len() }, new_tokens)?;
        self.model.check_markers(&ids, media.len())?;
        // The row copies the last block of the prefix unless it is full.
        let prompt = shared % BLOCK + ids.len();
        let reserved_blocks = self.reserve(&KvReservation { prompt, new_tokens, rows })?;
        let state = self.model.row(Vec::new(), &self.pool);
        let row = Row::new(Role::AfterPrefix(media), state, ids);
        Ok(self.insert_new(Row { reserved_blocks, prefix: Some(prefix), ..row }))
    }

    /// Returns the number of tokens of a prefix.
    pub fn prefix_len(&self, prefix: PrefixId) -> usize {
        let row = &self.rows[&prefix.0];
        row.state.cache.len() + row.pending.len()
    }

    /// Releases a prefix: its blocks become free with the last row that shares it.
    pub fn release_prefix(&mut self, prefix: PrefixId) {
        self.row_mut(prefix.0).role = Role::Prefix { released: true };
        self.drop_unused(prefix);
    }

    /// Tells whether rows share a prefix.
    pub fn is_shared(&self, prefix: PrefixId) -> bool {
        self.rows.values().any(|row| row.prefix == Some(prefix))
    }

    fn drop_unused(&mut self, prefix: PrefixId) {
        let released = matches!(self.rows[&prefix.0].role, Role::Prefix { released: true });
        if released && !self.is_shared(prefix) {
            self.rows.remove(&prefix.0);
        }
    }

    fn reserve(&self, reservation: &KvReservation) -> Result<usize> {
        let (blocks, free) = (reservation.blocks(), self.free_blocks());
        if blocks > free {
            return Err(Error::OverBudget(format!("{}, {free} are free", describe(reservation))));
        }
        Ok(blocks)
    }

    /// Appends a token to a row that has no pending tokens.
    pub fn push(&mut self, row: RowId, token: u32) {
        self.row_mut(row).pending.push(token);
    }

    /// Appends tokens to a row that has no pending tokens, to be scored: the steps return the log-probability of each token
    /// but the first.
    pub fn push_scored(&mut self, row: RowId, ids: &[u32]) {
        let [read @ .., _] = ids else { return };
        let row = self.row_mut(row);
        row.pending.extend(read);
        row.targets.extend(&ids[1..]);
    }

    /// Forks a row. Both rows share the cached tokens.
    pub fn fork(&mut self, row: RowId) -> RowId {
        let child = self.row_mut(row).clone();
        self.insert(child)
    }

    /// Removes a row and frees the blocks that no other row shares.
    pub fn retire(&mut self, row: RowId) {
        let removed = self.rows.remove(&row);
        if let Some(prefix) = removed.and_then(|row| row.prefix) {
            self.drop_unused(prefix);
        }
    }

    /// Runs one pass over rows with pending tokens. Returns the scores of rows without pending tokens left, in order of
    /// admission. Rows in decode advance in every step; prefill of long or many prompts takes several steps.
    ///
    /// # Errors
    /// The model fails. The state of the rows is undefined then: drop the decoder.
    pub fn step(&mut self) -> Result<Vec<Scores>> {
        self.join_prefixes();
        let chunks = self.next_chunks();
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.forward(&chunks)?;
        let (mut ready, mut last, mut scored, mut end) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (id, read) in chunks {
            let start = end;
            end += read;
            let row = self.row_mut(id);
            row.pending.drain(..read);
            if row.split > 0 {
                row.split = row.split.saturating_sub(read);
                if row.split == 0 {
                    row.state.cache.end_prefix();
                }
            }
            if !row.targets.is_empty() {
                scored.push((id, start..end, row.targets.drain(..read).collect()));
            } else if row.pending.is_empty() && matches!(row.role, Role::Sequence) {
                ready.push(id);
                last.push(end as u32 - 1);
            }
        }
        let mut scores = target_scores(self.model, &hidden, scored)?;
        if !last.is_empty() {
            let last = hidden.index_select(&Tensor::new(last, hidden.device())?, 0)?;
            let log_probs = log_probabilities(&self.model.logits(&last)?)?;
            let next = ready.into_iter().zip(log_probs);
            scores.extend(next.map(|(row, log_probs)| Scores { row, log_probs, targets: Vec::new() }));
        }
        scores.sort_by_key(|scores| scores.row);
        Ok(scores)
    }

    /// Lets the rows that wait for a complete prefix take over its tokens.
    fn join_prefixes(&mut self) {
        let complete: BTreeMap<RowId, RowState> = self
            .rows
            .iter()
            .filter(|(_, row)| matches!(row.role, Role::Prefix { .. }) && row.pending.is_empty())
            .map(|(&id, row)| (id, row.state.clone()))
            .collect();
        for row in self.rows.values_mut() {
            let prefix = row.prefix.and_then(|prefix| complete.get(&prefix.0));
            if let (Role::AfterPrefix(media), Some(prefix)) = (&mut row.role, prefix) {
                row.state = prefix.clone();
                row.state.cache.end_prefix();
                row.state.add_media(std::mem::take(media));
                row.role = Role::Sequence;
            }
        }
    }

    /// Returns the number of pending tokens that each row processes next. Rows of one token come first, so that they attend
    /// in one product.
    fn next_chunks(&self) -> Vec<(RowId, usize)> {
        let waits = |row: &Row| row.pending.is_empty() || matches!(row.role, Role::AfterPrefix(_));
        let pending = || self.rows.iter().filter(move |(_, row)| !waits(row));
        let steps = pending().filter(|(_, row)| row.pending.len() == 1).map(|(&id, _)| (id, 1));
        let mut left = self.prefill_chunk;
        let prompts = pending().filter(|(_, row)| row.pending.len() > 1).map_while(|(&id, row)| {
            let whole = if row.split > 0 { row.split } else { row.pending.len() };
            let chunk = whole.min(self.prefill_chunk);
            left = left.checked_sub(chunk)?;
            Some((id, chunk))
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
        self.model.forward(&mut inputs, Some(&mut self.packed_media), None)
    }

    /// Inserts a row that is a group of its own.
    fn insert_new(&mut self, row: Row) -> RowId {
        let group = RowId(self.next_id);
        self.insert(Row { group, ..row })
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

impl Row {
    fn new(role: Role, state: RowState, pending: Vec<u32>) -> Self {
        let group = RowId(u64::MAX);
        let (split, targets, reserved_blocks, prefix) = (0, Vec::new(), 0, None);
        Self { role, state, pending, split, targets, group, reserved_blocks, prefix }
    }
}
