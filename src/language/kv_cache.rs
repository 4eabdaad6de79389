//! KV cache: one pool of blocks for all rows, and each row's list of blocks.
//!
//! The pool is allocated once, with a fixed size. A row holds blocks and returns them when it is dropped. Rows that share
//! a prefix share its blocks (PagedAttention, arXiv 2309.06180); a row copies a shared block before it writes into it.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernels::attention::Kv;

/// Tokens of one block: the most that a fork copies, and the most that a row wastes.
pub const BLOCK: usize = 16;

/// Sizes of the KV cache of a language model.
#[derive(Debug, Clone)]
pub struct CacheShape {
    /// Number of decoder layers.
    pub layers: usize,
    /// Key and value heads (fewer than query heads when queries are grouped).
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
    /// Type of every cached number.
    pub dtype: DType,
    /// Device that holds the pool.
    pub device: Device,
}

impl CacheShape {
    /// Returns the memory of one block at all layers, in bytes.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.heads * self.width * self.dtype.size_in_bytes() * BLOCK
    }
}

/// Returns the number of blocks that hold `tokens` tokens.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}

/// A pool of KV blocks that rows share. A clone is a handle to the same pool.
#[derive(Clone)]
pub struct KvPool(Arc<Pool>);

struct Pool {
    shape: CacheShape,
    /// (h_kv, blocks * [`BLOCK`], d) per layer.
    layers: Vec<Kv>,
    blocks: usize,
    /// The lowest index is allocated first, so that a row's blocks tend to be adjacent.
    free: Mutex<BTreeSet<u32>>,
}

/// A block in use. Reference counted: with its last reference it returns to the free list.
struct Block {
    index: u32,
    pool: KvPool,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.free().insert(self.index);
    }
}

impl KvPool {
    /// Allocates a pool of `blocks` blocks at every layer.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(shape: &CacheShape, blocks: usize) -> Result<Self> {
        let empty = || Tensor::zeros((shape.heads, blocks * BLOCK, shape.width), shape.dtype, &shape.device);
        let layers = (0..shape.layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        let free = Mutex::new((0..blocks as u32).collect());
        Ok(Self(Arc::new(Pool { shape: shape.clone(), layers, blocks, free })))
    }

    /// Returns the number of blocks, free or in use.
    pub fn blocks(&self) -> usize {
        self.0.blocks
    }

    /// Returns the number of free blocks.
    pub fn free_blocks(&self) -> usize {
        self.free().len()
    }

    pub(super) fn layer(&self, layer: usize) -> &Kv {
        &self.0.layers[layer]
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Copies blocks, at every layer.
    pub(super) fn copy(&self, from_to: &[(u32, u32)]) -> Result<()> {
        if from_to.is_empty() {
            return Ok(());
        }
        let (from, to): (Vec<_>, Vec<_>) = from_to.iter().copied().unzip();
        let slots = |blocks: Vec<u32>| -> Vec<u32> { blocks.into_iter().flat_map(slots_of_block).collect() };
        let from = Tensor::new(slots(from), &self.0.shape.device)?;
        let to = self.scatter_index(&slots(to))?;
        for (keys, values) in &self.0.layers {
            keys.scatter_set(&to, &keys.index_select(&from, 1)?, 1)?;
            values.scatter_set(&to, &values.index_select(&from, 1)?, 1)?;
        }
        Ok(())
    }

    /// Returns the index that scatters tokens into `slots` (n), for every head and number: (h_kv, n, d).
    pub(super) fn scatter_index(&self, slots: &[u32]) -> Result<Tensor> {
        let CacheShape { heads, width, device, .. } = &self.0.shape;
        let n = slots.len();
        Ok(Tensor::new(slots, device)?.reshape((1, n, 1))?.broadcast_as((*heads, n, *width))?.contiguous()?)
    }

    fn allocate(&self) -> Option<Arc<Block>> {
        let index = self.free().pop_first()?;
        Some(Arc::new(Block { index, pool: self.clone() }))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // A panic of another thread cannot leave a set of numbers half changed.
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slots_of_block(block: u32) -> Range<u32> {
    block * BLOCK as u32..(block + 1) * BLOCK as u32
}

impl fmt::Debug for KvPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KvPool({} of {} blocks free)", self.free_blocks(), self.blocks())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({})", self.index)
    }
}

/// KV cache of one row. A clone forks the row: both share the cached blocks.
#[derive(Debug, Clone)]
pub struct KvCache {
    storage: Storage,
    len: usize,
    /// Number of first tokens that form the prefix, in full blocks.
    prefix: usize,
}

#[derive(Debug, Clone)]
enum Storage {
    /// No token is cached: every pass is independent, and gradients flow.
    Off,
    Blocks {
        pool: KvPool,
        blocks: Vec<Arc<Block>>,
    },
}

impl KvCache {
    /// Creates the cache of a row without tokens.
    pub fn new(pool: &KvPool) -> Self {
        Self { storage: Storage::Blocks { pool: pool.clone(), blocks: Vec::new() }, len: 0, prefix: 0 }
    }

    /// Creates a cache that stores nothing: for one differentiable pass over a whole sequence.
    pub fn off() -> Self {
        Self { storage: Storage::Off, len: 0, prefix: 0 }
    }

    /// Returns the number of cached tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the keys and values of all cached tokens: (h_kv, n, d) each, per layer.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn read(&self) -> Result<Vec<Kv>> {
        let Storage::Blocks { pool, .. } = &self.storage else { return Ok(Vec::new()) };
        let slots = Tensor::new(self.slots(0..self.len).collect::<Vec<_>>(), &pool.0.shape.device)?;
        let read = |x: &Tensor| x.index_select(&slots, 1);
        pool.0.layers.iter().map(|(keys, values)| Ok((read(keys)?, read(values)?))).collect()
    }

    /// Appends tokens with the keys and values (h_kv, n, d) of each layer.
    ///
    /// # Errors
    /// No block is free, the shapes are not those of the pool, or the device refuses an operation.
    pub fn write(&mut self, layers: &[Kv]) -> Result<()> {
        let Some(pool) = self.pool().cloned() else { return Ok(()) };
        let n = layers.first().map_or(Ok(0), |(keys, _)| keys.dim(1))?;
        let mut copies = Vec::new();
        self.reserve(n, &mut copies)?;
        pool.copy(&copies)?;
        let index = pool.scatter_index(&self.slots(self.len..self.len + n).collect::<Vec<_>>())?;
        for ((keys, values), (new_keys, new_values)) in pool.0.layers.iter().zip(layers) {
            keys.scatter_set(&index, new_keys, 1)?;
            values.scatter_set(&index, new_values, 1)?;
        }
        self.advance(n);
        Ok(())
    }

    /// Ends the prefix after the last full block of cached tokens. New tokens attend to the prefix and to the tokens after it in
    /// two products, also where no other row shares the prefix, so that both give the same bits.
    pub fn end_prefix(&mut self) {
        self.prefix = self.len / BLOCK * BLOCK;
    }

    /// Returns the number of tokens of the prefix.
    pub(super) fn prefix(&self) -> usize {
        self.prefix
    }

    /// Tells whether two rows share the blocks of one prefix.
    pub(super) fn shares_prefix(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.slots(0..self.prefix).eq(other.slots(0..other.prefix))
    }

    pub(super) fn pool(&self) -> Option<&KvPool> {
        match &self.storage {
            Storage::Off => None,
            Storage::Blocks { pool, .. } => Some(pool),
        }
    }

    /// Allocates room for `n` more tokens in blocks that no other row reads. Appends the blocks to copy first to `copies`,
    /// as pairs (from, to).
    ///
    /// # Errors
    /// No block is free.
    pub(super) fn reserve(&mut self, n: usize, copies: &mut Vec<(u32, u32)>) -> Result<()> {
        let Storage::Blocks { pool, blocks } = &mut self.storage else { return Ok(()) };
        let allocate = || {
            let blocks = pool.blocks();
            pool.allocate().ok_or_else(|| {
                Error::OverBudget(format!(
                    "{n} more tokens do not fit: all {blocks} blocks of {BLOCK} tokens are in use"
                ))
            })
        };
        if !self.len.is_multiple_of(BLOCK) && n > 0 {
            let open = &mut blocks[self.len / BLOCK];
            if Arc::strong_count(open) > 1 {
                let own = allocate()?;
                copies.push((open.index, own.index));
                *open = own;
            }
        }
        while blocks.len() < blocks_for(self.len + n) {
            blocks.push(allocate()?);
        }
        Ok(())
    }

    /// Returns the slots of the tokens `range` of this row.
    pub(super) fn slots(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        let blocks = match &self.storage {
            Storage::Off => &[][..],
            Storage::Blocks { blocks, .. } => blocks,
        };
        range.map(move |i| blocks[i / BLOCK].index * BLOCK as u32 + (i % BLOCK) as u32)
    }

    /// Counts `n` tokens, written at every layer, as cached.
    pub(super) fn advance(&mut self, n: usize) {
        if let Storage::Blocks { .. } = self.storage {
            self.len += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(blocks: usize) -> KvPool {
        let shape = CacheShape { layers: 2, heads: 3, width: 4, dtype: DType::F32, device: Device::Cpu };
        KvPool::new(&shape, blocks).unwrap()
    }

    fn grow(row: &mut KvCache, n: usize) -> Result<Vec<(u32, u32)>> {
        let mut copies = Vec::new();
        row.reserve(n, &mut copies)?;
        row.advance(n);
        Ok(copies)
    }

    #[test]
    fn dropped_row_returns_its_blocks() {
        let pool = pool(4);
        let mut row = KvCache::new(&pool);
        grow(&mut row, 2 * BLOCK + 1).unwrap();
        let fork = row.clone();
        assert_eq!(pool.free_blocks(), 1);
        drop(row);
        assert_eq!(pool.free_blocks(), 1, "the fork reads them");
        drop(fork);
        assert_eq!(pool.free_blocks(), 4);
    }

    #[test]
    fn write_into_shared_block_copies_it_first() {
        let pool = pool(5);
        let mut row = KvCache::new(&pool);
        grow(&mut row, BLOCK + 2).unwrap();
        let mut fork = row.clone();
        assert_eq!(grow(&mut fork, 1).unwrap(), [(1, 2)], "the last block, and not the full one before it");
        assert_eq!(grow(&mut row, 1).unwrap(), [], "no other row reads the old block now");
        assert_eq!(fork.slots(0..BLOCK).collect::<Vec<_>>(), row.slots(0..BLOCK).collect::<Vec<_>>());
        assert_ne!(fork.slots(BLOCK..BLOCK + 3).next(), row.slots(BLOCK..BLOCK + 3).next());
    }

    #[test]
    fn fork_at_block_end_copies_nothing() {
        let pool = pool(3);
        let mut row = KvCache::new(&pool);
        grow(&mut row, BLOCK).unwrap();
        let mut fork = row.clone();
        assert_eq!(grow(&mut fork, 1).unwrap(), []);
        assert_eq!(grow(&mut row, 1).unwrap(), []);
    }

    #[test]
    fn full_pool_refuses_more() {
        let pool = pool(2);
        let mut row = KvCache::new(&pool);
        let error = grow(&mut row, 2 * BLOCK + 1).unwrap_err();
        assert_eq!(error.code(), "over_budget");
        assert_eq!(
            error.to_string(),
            "budget: 33 more tokens do not fit: all 2 blocks of 16 tokens are in use"
        );
    }
}
