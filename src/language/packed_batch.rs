//! The rows of one packed pass: where each writes its keys and values, and which of them it attends to.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

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

/// Rows that attend together.
struct AttentionGroup {
    /// Positions in the packed axis.
    positions: Range<usize>,
    keys: GroupKeys,
    mask: Option<Tensor>,
    /// Position of each key within its row, and of each new token.
    key_positions: Vec<usize>,
    token_positions: Vec<usize>,
    /// ALiBi bias, once it is computed.
    bias: RefCell<Option<Tensor>>,
}

/// Keys and values of a group.
enum GroupKeys {
    /// One list of pieces for all new tokens: those of one row; or of several rows that share a prefix, which is the first piece.
    Shared(Vec<KvLocation>),
    /// Of several rows with one new token each, row after row.
    ByRow(KvLocation),
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

/// Location of keys and values.
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

impl KvLocation {
    /// Returns the location of cached tokens.
    fn of(slots: &[u32], shape: &CacheShape) -> Result<Self> {
        match slots {
            [first, ..] if slots.is_sorted_by(|a, b| a + 1 == *b) => {
                Ok(KvLocation::Contiguous(*first as usize..*first as usize + slots.len()))
            }
            _ => Ok(KvLocation::Scattered(Tensor::new(slots, &shape.device)?)),
        }
    }

    /// Returns the keys and values of the new tokens at `positions`, or of cached ones.
    fn read(&self, (keys, values): &Kv, positions: &Range<usize>) -> Result<Kv> {
        let read = |x: &Tensor| match self {
            KvLocation::New => x.narrow(1, positions.start, positions.len()),
            KvLocation::Contiguous(slots) => x.narrow(1, slots.start, slots.len()),
            KvLocation::Scattered(slots) => x.index_select(slots, 1),
        };
        Ok((read(keys)?, read(values)?))
    }
}

impl AttentionGroup {
    /// q (h, n, d) of the whole pass -> (h, length of the group, d).
    fn attend(&self, q: &Tensor, kv: &Kv, scale: f64, bias: &AttentionBias) -> Result<Tensor> {
        let q = q.narrow(1, self.positions.start, self.positions.len())?;
        let biased = match bias {
            AttentionBias::None => None,
            AttentionBias::Alibi(slopes) => Some(self.alibi(slopes, kv.0.dim(0)?)?),
        };
        match (&self.keys, biased) {
            (GroupKeys::ByRow(location), biased) => {
                let kv = location.read(kv, &self.positions)?;
                step_attention(&q, &kv, scale, biased.as_ref().or(self.mask.as_ref()))
            }
            (GroupKeys::Shared(pieces), biased) => {
                let pieces = pieces.iter().map(|piece| piece.read(kv, &self.positions));
                let pieces = pieces.collect::<Result<Vec<_>>>()?;
                match biased {
                    // Fused kernels of `causal_attention` do not read a bias.
                    Some(biased) => attention(&q, &pieces, scale, Some(&biased)),
                    None => causal_attention(&q, &pieces, scale, self.mask.as_ref()),
                }
            }
        }
    }

    /// Returns the ALiBi bias of the group together with its mask: (h, n, l) of keys that all tokens share, (h_kv, b, group, l) of
    /// keys by row. It is the same at every layer, so it is computed once per pass.
    fn alibi(&self, slopes: &Tensor, h_kv: usize) -> Result<Tensor> {
        if let Some(bias) = self.bias.borrow().as_ref() {
            return Ok(bias.clone());
        }
        let (h, n, l) = (slopes.dim(0)?, self.token_positions.len(), self.key_positions.len());
        let distance = |&at: &usize| self.key_positions.iter().map(move |&key| key as f32 - at as f32);
        let distances: Vec<f32> = self.token_positions.iter().flat_map(distance).collect();
        let distances = Tensor::from_vec(distances, (n, l), slopes.device())?.to_dtype(slopes.dtype())?;
        let mut bias = match self.keys {
            GroupKeys::Shared(_) => slopes.reshape((h, 1, 1))?.broadcast_mul(&distances)?,
            GroupKeys::ByRow(_) => {
                slopes.reshape((h_kv, 1, h / h_kv, 1))?.broadcast_mul(&distances.reshape((1, n, 1, l))?)?
            }
        };
        if let Some(mask) = &self.mask {
            // A mask may cover the last keys only.
            let unmasked = l - mask.dim(D::Minus1)?;
            let masked = bias.narrow(D::Minus1, unmasked, l - unmasked)?.broadcast_add(mask)?;
            bias = Tensor::cat(&[bias.narrow(D::Minus1, 0, unmasked)?, masked], D::Minus1)?;
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
        let (group, members) = group(&rows[first..], start, cached, shape)?;
        (first, start) = (first + members, group.positions.end);
        groups.push(group);
    }
    Ok(groups)
}

fn length(row: &(usize, &mut KvCache)) -> usize {
    row.1.len() + row.0
}

/// Returns the number of tokens after the prefix of a row.
fn tail(row: &(usize, &mut KvCache)) -> usize {
    length(row) - row.1.prefix()
}

/// Returns the number of first rows that attend to one list of pieces: one; or all that share a prefix, while their other
/// tokens together, of which a row attends to its own only, are not more than those of the prefix.
fn sharing(rows: &[(usize, &mut KvCache)]) -> usize {
    let (first, mut tails) = (&rows[0].1, 0);
    let alike = rows.iter().take_while(|row| {
        tails += tail(row);
        row.1.shares_prefix(first) && tails <= first.prefix()
    });
    alike.count().max(1)
}

/// Returns the number of first rows that have one new token each and similar lengths.
fn steps(rows: &[(usize, &mut KvCache)]) -> usize {
    let (mut least, mut most) = (usize::MAX, 0);
    let alike = rows.iter().take_while(|row| {
        (least, most) = (least.min(length(row)), most.max(length(row)));
        row.0 == 1 && most <= 2 * least + PADDING
    });
    alike.count()
}

/// Groups the first rows, whose packed positions begin at `start`. Returns the number of rows too.
fn group(
    rows: &[(usize, &mut KvCache)],
    start: usize,
    cached: bool,
    shape: &CacheShape,
) -> Result<(AttentionGroup, usize)> {
    let (sharing, steps) = if cached { (sharing(rows), steps(rows)) } else { (1, 1) };
    let by_row = sharing == 1 && steps > 1;
    let rows = &rows[..if by_row { steps } else { sharing }];
    let (keys, key_positions, mask) = if by_row {
        let longest = rows.iter().map(length).max().unwrap_or(0);
        let keys = GroupKeys::ByRow(padded(rows, longest, shape)?);
        (keys, (0..longest).collect(), padding_mask(rows, longest, shape)?)
    } else {
        let prefix = rows[0].1.prefix();
        let pieces = if cached { pieces(rows, prefix, shape)? } else { vec![KvLocation::New] };
        let tails = rows.iter().flat_map(|row| prefix..length(row));
        (GroupKeys::Shared(pieces), (0..prefix).chain(tails).collect(), tail_mask(rows, shape)?)
    };
    let positions = start..start + rows.iter().map(|row| row.0).sum::<usize>();
    let token_positions = rows.iter().flat_map(|(n, cache)| cache.len()..cache.len() + n).collect();
    let bias = RefCell::default();
    Ok((AttentionGroup { positions, keys, mask, key_positions, token_positions, bias }, rows.len()))
}

/// Returns the locations of the prefix of some rows, if they have one, and of the tokens after it, row after row.
fn pieces(rows: &[(usize, &mut KvCache)], prefix: usize, shape: &CacheShape) -> Result<Vec<KvLocation>> {
    let shared: Vec<u32> = rows[0].1.slots(0..prefix).collect();
    let tails: Vec<u32> = rows.iter().flat_map(|row| row.1.slots(prefix..length(row))).collect();
    let pieces = [shared, tails].into_iter().filter(|slots| !slots.is_empty());
    pieces.map(|slots| KvLocation::of(&slots, shape)).collect()
}

/// Returns the slots of the tokens of each row, padded to the longest row. Padding repeats the row's first slot, and the
/// mask hides it.
fn padded(rows: &[(usize, &mut KvCache)], longest: usize, shape: &CacheShape) -> Result<KvLocation> {
    let mut slots = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        let first = slots.len();
        slots.extend(row.1.slots(0..length(row)));
        slots.resize(first + longest, slots[first]);
    }
    Ok(KvLocation::Scattered(Tensor::new(slots, &shape.device)?))
}

/// Returns the mask (1, b, 1, l) that hides the padding from the new token of each row. `None` where no row is padded.
fn padding_mask(
    rows: &[(usize, &mut KvCache)],
    longest: usize,
    shape: &CacheShape,
) -> Result<Option<Tensor>> {
    if rows.iter().all(|row| length(row) == longest) {
        return Ok(None);
    }
    let attends = |i: usize, j: usize| j < length(&rows[i]);
    let mask = additive_mask((rows.len(), longest), attends, &shape.device, shape.dtype)?;
    Ok(Some(mask.reshape((1, rows.len(), 1, longest))?))
}

/// Returns the mask (n, m) that hides the m tokens after the prefix from each new token, but for earlier ones of its row. `None`
/// where it would hide nothing.
fn tail_mask(rows: &[(usize, &mut KvCache)], shape: &CacheShape) -> Result<Option<Tensor>> {
    if let [row] = rows
        && row.0 == 1
    {
        return Ok(None);
    }
    let (mut visible, mut start) = (Vec::new(), 0);
    for row in rows {
        let own = tail(row);
        visible.extend((0..row.0).map(|i| start..start + own - row.0 + i + 1));
        start += own;
    }
    let attends = |i: usize, j: usize| visible[i].contains(&j);
    Ok(Some(additive_mask((visible.len(), start), attends, &shape.device, shape.dtype)?))
}

#[cfg(test)]
mod tests;
