//! The rows of one packed pass: where each writes its keys and values, and which of them it attends to.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::kv_cache::{CacheShape, KvCache, KvPool};
use crate::error::{Error, Result};
use crate::kernels::attention::{Kv, attention, causal_attention, step_attention};
use crate::kernels::mask::additive_mask;

/// Rows of one new token attend in one product, padded to the longest of them, while the longest has at most twice the
/// length of the shortest plus this number of tokens.
const PADDING: usize = 64;

/// A batch of rows, packed for one pass.
pub struct PackedBatch<'a> {
    head_observer: Option<&'a HeadObserver<'a>>,
    rows: Vec<(usize, &'a mut KvCache)>,
    target: Option<WriteTarget>,
    groups: Vec<AttentionGroup>,
    positions: Tensor,
    end: usize,
}

/// Slots of the pool that the rows of a pass write to.
struct WriteTarget {
    pool: KvPool,
    /// Index of the slots of all new tokens: (h_kv, n, d).
    index: Tensor,
}

/// Rows that attend in one product: one row with all its new tokens, or several rows with one new token each.
struct AttentionGroup {
    /// Positions in the packed axis.
    positions: Range<usize>,
    kv: KvLocation,
    rows: usize,
    mask: Option<Tensor>,
    /// Number of visible keys of each new token: its position within its row plus one.
    ends: Vec<usize>,
    /// Number of keys of each row, with padding.
    keys: usize,
    /// ALiBi bias, once it is computed.
    bias: RefCell<Option<Tensor>>,
}

/// Bias that is added to the scores of self-attention.
#[derive(Debug, Clone)]
pub enum AttentionBias {
    /// No bias: positions are in the embeddings or rotary.
    None,
    /// ALiBi (arXiv 2108.12409) with one slope per head (h): a key at distance r gets `-slope * r`.
    Alibi(Tensor),
}

impl AttentionBias {
    /// Returns ALiBi with the `slopes` of the heads (h).
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn alibi(slopes: &[f32], dtype: DType, device: &Device) -> Result<Self> {
        Ok(AttentionBias::Alibi(Tensor::new(slopes, device)?.to_dtype(dtype)?))
    }
}

/// Slopes of ALiBi for a number of heads that is no power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlibiHeads {
    /// Those of the next power of two, every other first: the paper and MPT.
    NextPowerOfTwo,
    /// Equal ratios for any number of heads: MosaicGPT.
    Even,
}

/// Returns the slopes 2^(-`max` i / h) for head i of h, counted from 1. The paper's `max` is 8.
pub fn alibi_slopes(heads: usize, max: f64, rule: AlibiHeads) -> Vec<f32> {
    let whole = if rule == AlibiHeads::Even { heads } else { heads.next_power_of_two() };
    let slope = |i: usize| 2f64.powf(-max * i as f64 / whole as f64) as f32;
    match whole == heads {
        true => (1..=heads).map(slope).collect(),
        false => (2..=whole).step_by(2).chain((1..=whole).step_by(2)).take(heads).map(slope).collect(),
    }
}

/// Callback that receives the outputs of the attention heads (h, n, d) of a layer, before they are merged.
pub type HeadObserver<'a> = dyn Fn(usize, &Tensor) -> Result<()> + 'a;

/// Location of the keys and values of a group.
enum KvLocation {
    /// The new tokens themselves: no token is cached.
    New,
    /// Adjacent slots, read in place.
    Contiguous(Range<usize>),
    /// Slots (n), gathered before the product.
    Scattered(Tensor),
}

impl<'a> PackedBatch<'a> {
    /// Packs rows in the given order, each with the number of its new tokens and its cache. Adjacent rows of one new token
    /// attend in one product.
    ///
    /// # Errors
    /// The KV pool is full, the rows do not share one pool, or the device refuses an operation.
    pub fn new(rows: impl IntoIterator<Item = (usize, &'a mut KvCache)>, shape: &CacheShape) -> Result<Self> {
        let mut rows: Vec<_> = rows.into_iter().collect();
        let pool = shared_pool(&rows)?;
        let mut copies = Vec::new();
        for (n, cache) in &mut rows {
            cache.reserve(*n, &mut copies)?;
        }
        let target = match pool {
            None => None,
            Some(pool) => {
                pool.copy(&copies)?;
                let slots: Vec<u32> =
                    rows.iter().flat_map(|(n, cache)| cache.slots(cache.len()..cache.len() + n)).collect();
                let index = pool.scatter_index(&slots)?;
                Some(WriteTarget { pool, index })
            }
        };
        let positions: Vec<u32> =
            rows.iter().flat_map(|(n, cache)| cache.len()..cache.len() + n).map(|p| p as u32).collect();
        let end = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let groups = groups(&rows, target.is_some(), shape)?;
        let positions = Tensor::new(positions, &shape.device)?;
        Ok(Self { head_observer: None, rows, target, groups, positions, end })
    }

    /// Sets a callback that receives the outputs of the single attention heads of every layer.
    pub fn with_head_observer(self, observer: &'a HeadObserver<'a>) -> Self {
        Self { head_observer: Some(observer), ..self }
    }

    /// Returns the length of the longest row, cached and new tokens together.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Returns the position of every packed token within its row: (n), u32.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Writes the new keys and values, and computes causal self-attention of every row over its cached and new tokens, with
    /// `bias` added to the scores: q (h, n, d), k and v (h_kv, n, d) -> (h, n, d).
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn attend(
        &self,
        layer: usize,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scale: f64,
        bias: &AttentionBias,
    ) -> Result<Tensor> {
        let stored = match &self.target {
            None => (k.clone(), v.contiguous()?),
            Some(WriteTarget { pool, index }) => {
                let (keys, values) = pool.layer(layer);
                keys.scatter_set(index, &k.contiguous()?, 1)?;
                values.scatter_set(index, &v.contiguous()?, 1)?;
                (keys.clone(), values.clone())
            }
        };
        let attend = |group: &AttentionGroup| group.attend(q, &stored, scale, bias);
        let out = self.groups.iter().map(attend).collect::<Result<Vec<_>>>()?;
        let out = if let [only] = &out[..] { only.clone() } else { Tensor::cat(&out, 1)? };
        if let Some(observer) = self.head_observer {
            observer(layer, &out)?;
        }
        Ok(out)
    }

    /// Counts the new tokens as cached. Call it once, after all layers.
    pub fn advance(self) {
        for (n, cache) in self.rows {
            cache.advance(n);
        }
    }
}

impl AttentionGroup {
    /// q (h, n, d) of the whole pass -> (h, length of the group, d).
    fn attend(&self, q: &Tensor, (keys, values): &Kv, scale: f64, bias: &AttentionBias) -> Result<Tensor> {
        let q = q.narrow(1, self.positions.start, self.positions.len())?;
        let read = |x: &Tensor| match &self.kv {
            KvLocation::New => x.narrow(1, self.positions.start, self.positions.len()),
            KvLocation::Contiguous(slots) => x.narrow(1, slots.start, slots.len()),
            KvLocation::Scattered(slots) => x.index_select(slots, 1),
        };
        let kv = (read(keys)?, read(values)?);
        let biased = match bias {
            AttentionBias::None => None,
            AttentionBias::Alibi(slopes) => Some(self.alibi(slopes, kv.0.dim(0)?)?),
        };
        match (self.rows > 1, biased) {
            (true, biased) => step_attention(&q, &kv, scale, biased.as_ref().or(self.mask.as_ref())),
            // Fused kernels of `causal_attention` do not read a bias.
            (false, Some(biased)) => attention(&q, &[kv], scale, Some(&biased)),
            (false, None) => causal_attention(&q, &[kv], scale, self.mask.as_ref()),
        }
    }

    /// Returns the ALiBi bias of the group together with its mask: (h, n, l) of one row, (h_kv, b, group, l) of several rows.
    /// It is the same at every layer, so it is computed once per pass.
    fn alibi(&self, slopes: &Tensor, h_kv: usize) -> Result<Tensor> {
        if let Some(bias) = self.bias.borrow().as_ref() {
            return Ok(bias.clone());
        }
        let (h, n, l) = (slopes.dim(0)?, self.ends.len(), self.keys);
        let distance = |&end: &usize| (0..l).map(move |j| j as f32 - (end as f32 - 1.0));
        let distances: Vec<f32> = self.ends.iter().flat_map(distance).collect();
        let distances = Tensor::from_vec(distances, (n, l), slopes.device())?.to_dtype(slopes.dtype())?;
        let mut bias = match self.rows > 1 {
            false => slopes.reshape((h, 1, 1))?.broadcast_mul(&distances)?,
            true => {
                slopes.reshape((h_kv, 1, h / h_kv, 1))?.broadcast_mul(&distances.reshape((1, n, 1, l))?)?
            }
        };
        if let Some(mask) = &self.mask {
            bias = bias.broadcast_add(mask)?;
        }
        *self.bias.borrow_mut() = Some(bias.clone());
        Ok(bias)
    }
}

/// Returns the pool that all rows write to; `None`: no row caches its tokens.
fn shared_pool(rows: &[(usize, &mut KvCache)]) -> Result<Option<KvPool>> {
    let mut pools = rows.iter().map(|(_, cache)| cache.pool());
    let first = pools.next().flatten();
    let same = |pool: Option<&KvPool>| match (first, pool) {
        (Some(first), Some(pool)) => first.is_same(pool),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if !pools.all(same) {
        return Err(Error::Prompt("the rows of one pass do not share one KV pool".into()));
    }
    Ok(first.cloned())
}

fn groups(rows: &[(usize, &mut KvCache)], cached: bool, shape: &CacheShape) -> Result<Vec<AttentionGroup>> {
    let mut groups = Vec::new();
    let (mut first, mut start) = (0, 0);
    while first < rows.len() {
        let members = &rows[first..first + if cached { group_len(&rows[first..]) } else { 1 }];
        let positions = start..start + members.iter().map(|row| row.0).sum::<usize>();
        (first, start) = (first + members.len(), positions.end);
        let kv = if cached { kv_location(members, shape)? } else { KvLocation::New };
        let (mask, ends) = (mask(members, shape)?, visible(members));
        let (rows, keys) = (members.len(), members.iter().map(length).max().unwrap_or(0));
        groups.push(AttentionGroup { positions, kv, rows, mask, ends, keys, bias: RefCell::default() });
    }
    Ok(groups)
}

fn length(row: &(usize, &mut KvCache)) -> usize {
    row.1.len() + row.0
}

/// Returns the number of first rows that form one group: one, or all that have one new token each and similar lengths.
fn group_len(rows: &[(usize, &mut KvCache)]) -> usize {
    let (mut least, mut most) = (usize::MAX, 0);
    let alike = rows.iter().take_while(|row| {
        (least, most) = (least.min(length(row)), most.max(length(row)));
        row.0 == 1 && most <= 2 * least + PADDING
    });
    alike.count().max(1)
}

/// Returns the slots of the tokens of each row, padded to the longest row. Padding repeats the row's first slot, and the
/// mask hides it.
fn kv_location(rows: &[(usize, &mut KvCache)], shape: &CacheShape) -> Result<KvLocation> {
    let longest = rows.iter().map(length).max().unwrap_or(0);
    let mut slots = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        let first = slots.len();
        slots.extend(row.1.slots(0..length(row)));
        slots.resize(first + longest, slots[first]);
    }
    match slots[..] {
        [first, ..] if rows.len() == 1 && slots.is_sorted_by(|a, b| a + 1 == *b) => {
            Ok(KvLocation::Contiguous(first as usize..first as usize + slots.len()))
        }
        _ => Ok(KvLocation::Scattered(Tensor::new(slots, &shape.device)?)),
    }
}

/// Returns the number of visible keys of each new token of one row, or of the only new token of each of several rows.
fn visible(rows: &[(usize, &mut KvCache)]) -> Vec<usize> {
    match rows {
        [row] => (row.1.len() + 1..=length(row)).collect(),
        _ => rows.iter().map(length).collect(),
    }
}

/// Returns the mask of a group: it hides later tokens from each new token of one row (n, l), or padding from each of
/// several rows (1, b, 1, l). `None` where it would hide nothing.
fn mask(rows: &[(usize, &mut KvCache)], shape: &CacheShape) -> Result<Option<Tensor>> {
    let longest = rows.iter().map(length).max().unwrap_or(0);
    let visible = visible(rows);
    let dims = match rows {
        [row] => vec![row.0, longest],
        _ => vec![1, rows.len(), 1, longest],
    };
    if visible.iter().all(|&n| n == longest) {
        return Ok(None);
    }
    let attends = |i: usize, j: usize| j < visible[i];
    let mask = additive_mask((visible.len(), longest), attends, &shape.device, shape.dtype)?;
    Ok(Some(mask.reshape(dims)?))
}

#[cfg(test)]
mod tests;
