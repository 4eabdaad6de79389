//! Keys and values of what is being written: one memory of blocks for all rows, and each row's list of them.
//!
//! The memory is made once, of a fixed size. A row holds blocks and gives them back when it is dropped; rows that share a
//! past share its blocks (PagedAttention, arXiv 2309.06180), and who writes into a shared one copies it first.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernels::attention::Kv;

/// Tokens of one block: what a fork copies at most, and what a row wastes at most.
pub const BLOCK: usize = 16;

/// The sizes of a language model's keys and values.
#[derive(Debug, Clone)]
pub struct CacheShape {
    pub layers: usize,
    /// Key and value heads (fewer than query heads when queries are grouped).
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
    pub dtype: DType,
    pub device: Device,
}

impl CacheShape {
    /// Memory of one block at all layers.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.heads * self.width * self.dtype.size_in_bytes() * BLOCK
    }
}

/// Blocks that hold `tokens` tokens.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}

/// The memory that rows share. A clone is the same memory.
#[derive(Clone)]
pub struct KvPool(Arc<Pool>);

struct Pool {
    shape: CacheShape,
    /// (h_kv, blocks * [`BLOCK`], d) per layer.
    layers: Vec<Kv>,
    blocks: usize,
    /// The lowest is taken first, so that a row's blocks tend to lie side by side.
    free: Mutex<BTreeSet<u32>>,
}

/// A block that somebody holds; without holders it is free again.
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
    /// Makes the memory: room for `blocks` blocks at every layer.
    ///
    /// # Errors
    /// The device has no room for it.
    pub fn new(shape: &CacheShape, blocks: usize) -> Result<Self> {
        let empty = || Tensor::zeros((shape.heads, blocks * BLOCK, shape.width), shape.dtype, &shape.device);
        let layers = (0..shape.layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        let free = Mutex::new((0..blocks as u32).collect());
        Ok(Self(Arc::new(Pool { shape: shape.clone(), layers, blocks, free })))
    }

    /// Blocks that there are.
    pub fn blocks(&self) -> usize {
        self.0.blocks
    }

    /// Blocks that nobody holds.
    pub fn free_blocks(&self) -> usize {
        self.free().len()
    }

    pub(super) fn layer(&self, layer: usize) -> &Kv {
        &self.0.layers[layer]
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Copies whole blocks, at every layer.
    pub(super) fn copy(&self, from_to: &[(u32, u32)]) -> Result<()> {
        if from_to.is_empty() {
            return Ok(());
        }
        let (from, to): (Vec<_>, Vec<_>) = from_to.iter().copied().unzip();
        let slots = |blocks: Vec<u32>| -> Vec<u32> { blocks.into_iter().flat_map(slots_of_block).collect() };
        let from = Tensor::new(slots(from), &self.0.shape.device)?;
        let to = self.everywhere(&slots(to))?;
        for (keys, values) in &self.0.layers {
            keys.scatter_set(&to, &keys.index_select(&from, 1)?, 1)?;
            values.scatter_set(&to, &values.index_select(&from, 1)?, 1)?;
        }
        Ok(())
    }

    /// Where to write tokens into `slots` (n), for every head and number: (h_kv, n, d).
    pub(super) fn everywhere(&self, slots: &[u32]) -> Result<Tensor> {
        let CacheShape { heads, width, device, .. } = &self.0.shape;
        let n = slots.len();
        Ok(Tensor::new(slots, device)?.reshape((1, n, 1))?.broadcast_as((*heads, n, *width))?.contiguous()?)
    }

    fn take(&self) -> Option<Arc<Block>> {
        let index = self.free().pop_first()?;
        Some(Arc::new(Block { index, pool: self.clone() }))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // A set of numbers is whole, whoever panicked.
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

/// The past of one row. A clone shares it: the row is forked.
#[derive(Debug, Clone)]
pub struct KvCache {
    memory: Memory,
    len: usize,
}

#[derive(Debug, Clone)]
enum Memory {
    /// Nothing is kept: every pass stands alone, and gradients flow.
    Off,
    Blocks {
        pool: KvPool,
        held: Vec<Arc<Block>>,
    },
}

impl KvCache {
    /// A row without a past.
    pub fn new(pool: &KvPool) -> Self {
        Self { memory: Memory::Blocks { pool: pool.clone(), held: Vec::new() }, len: 0 }
    }

    /// A row that keeps nothing: one pass over a whole sequence, differentiable.
    pub fn off() -> Self {
        Self { memory: Memory::Off, len: 0 }
    }

    /// Tokens cached so far.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn pool(&self) -> Option<&KvPool> {
        match &self.memory {
            Memory::Off => None,
            Memory::Blocks { pool, .. } => Some(pool),
        }
    }

    /// Makes sure that `n` more tokens can be written and nobody else reads where they go. What must be copied before,
    /// block by block, is appended to `copies`.
    ///
    /// # Errors
    /// No block is free.
    pub(super) fn reserve(&mut self, n: usize, copies: &mut Vec<(u32, u32)>) -> Result<()> {
        let Memory::Blocks { pool, held } = &mut self.memory else { return Ok(()) };
        let take = || {
            let blocks = pool.blocks();
            pool.take().ok_or_else(|| {
                Error::OverBudget(format!(
                    "{n} more tokens do not fit: all {blocks} blocks of {BLOCK} are held"
                ))
            })
        };
        if !self.len.is_multiple_of(BLOCK) && n > 0 {
            let open = &mut held[self.len / BLOCK];
            if Arc::strong_count(open) > 1 {
                let own = take()?;
                copies.push((open.index, own.index));
                *open = own;
            }
        }
        while held.len() < blocks_for(self.len + n) {
            held.push(take()?);
        }
        Ok(())
    }

    /// Where the tokens `range` of this row lie.
    pub(super) fn slots(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        let held = match &self.memory {
            Memory::Off => &[][..],
            Memory::Blocks { held, .. } => held,
        };
        range.map(move |i| held[i / BLOCK].index * BLOCK as u32 + (i % BLOCK) as u32)
    }

    /// Counts the `n` tokens that every layer has written.
    pub(super) fn advance(&mut self, n: usize) {
        if let Memory::Blocks { .. } = self.memory {
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
    fn a_dropped_row_gives_its_blocks_back() {
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
    fn who_writes_into_a_shared_block_copies_it_first() {
        let pool = pool(5);
        let mut row = KvCache::new(&pool);
        grow(&mut row, BLOCK + 2).unwrap();
        let mut fork = row.clone();
        assert_eq!(grow(&mut fork, 1).unwrap(), [(1, 2)], "the open block, and not the full one before it");
        assert_eq!(grow(&mut row, 1).unwrap(), [], "nobody else reads the old one any more");
        assert_eq!(fork.slots(0..BLOCK).collect::<Vec<_>>(), row.slots(0..BLOCK).collect::<Vec<_>>());
        assert_ne!(fork.slots(BLOCK..BLOCK + 3).next(), row.slots(BLOCK..BLOCK + 3).next());
    }

    #[test]
    fn a_fork_at_the_end_of_a_block_copies_nothing() {
        let pool = pool(3);
        let mut row = KvCache::new(&pool);
        grow(&mut row, BLOCK).unwrap();
        let mut fork = row.clone();
        assert_eq!(grow(&mut fork, 1).unwrap(), []);
        assert_eq!(grow(&mut row, 1).unwrap(), []);
    }

    #[test]
    fn a_full_memory_refuses_more() {
        let pool = pool(2);
        let mut row = KvCache::new(&pool);
        let error = grow(&mut row, 2 * BLOCK + 1).unwrap_err();
        assert_eq!(error.code(), "over_budget");
        assert_eq!(error.to_string(), "budget: 33 more tokens do not fit: all 2 blocks of 16 are held");
    }
}
