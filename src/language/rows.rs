//! The rows of one packed pass: who writes where, and who attends to what.

use std::ops::Range;

use candle_core::Tensor;

use super::kv_cache::{CacheShape, KvCache, KvPool};
use crate::error::{Error, Result};
use crate::kernels::attention::{Kv, causal_attention, step_attention};

/// Rows of one new token attend together, padded to the longest of them, if that is not much longer than the shortest.
const PADDING: usize = 64;

/// The rows of one packed pass.
pub struct Rows<'a> {
    rows: Vec<(usize, &'a mut KvCache)>,
    memory: Option<Memory>,
    groups: Vec<Group>,
    positions: Tensor,
    end: usize,
}

/// What the rows of a pass write into.
struct Memory {
    pool: KvPool,
    /// Where the new tokens of all rows go: (h_kv, n, d).
    write: Tensor,
}

/// Rows that attend in one product: one row with all its new tokens, or several rows with one new token each.
struct Group {
    /// Positions in the packed axis.
    span: Range<usize>,
    past: Past,
    rows: usize,
    mask: Option<Tensor>,
}

/// Where the keys and values of a group lie.
enum Past {
    /// They are the new tokens themselves, and nothing else.
    New,
    /// Side by side: read where they are.
    Run(Range<usize>),
    /// Anywhere: gathered first. (n)
    Scattered(Tensor),
}

impl<'a> Rows<'a> {
    /// Packs the rows in the given order: each brings the number of its new tokens and its cache. Rows of one new token
    /// that stand side by side are computed together.
    ///
    /// # Errors
    /// The memory is full, the rows do not share one, or the device refuses.
    pub fn new(rows: impl IntoIterator<Item = (usize, &'a mut KvCache)>, shape: &CacheShape) -> Result<Self> {
        let mut rows: Vec<_> = rows.into_iter().collect();
        let pool = shared_pool(&rows)?;
        let mut copies = Vec::new();
        for (n, cache) in &mut rows {
            cache.reserve(*n, &mut copies)?;
        }
        let memory = match pool {
            None => None,
            Some(pool) => {
                pool.copy(&copies)?;
                let slots: Vec<u32> =
                    rows.iter().flat_map(|(n, cache)| cache.slots(cache.len()..cache.len() + n)).collect();
                let write = pool.everywhere(&slots)?;
                Some(Memory { pool, write })
            }
        };
        let positions: Vec<u32> =
            rows.iter().flat_map(|(n, cache)| cache.len()..cache.len() + n).map(|p| p as u32).collect();
        let end = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let groups = groups(&rows, memory.is_some(), shape)?;
        Ok(Self { rows, memory, groups, positions: Tensor::new(positions, &shape.device)?, end })
    }

    /// Length of the longest row, cached and new tokens together.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Position of every packed token within its row: (n), u32.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Causal self-attention of every row over its past and its new tokens, which are written:
    /// q (h, n, d), k and v (h_kv, n, d) -> (h, n, d).
    pub fn attend(&self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        let stored = match &self.memory {
            None => (k.clone(), v.contiguous()?),
            Some(Memory { pool, write }) => {
                let (keys, values) = pool.layer(layer);
                keys.scatter_set(write, &k.contiguous()?, 1)?;
                values.scatter_set(write, &v.contiguous()?, 1)?;
                (keys.clone(), values.clone())
            }
        };
        let out =
            self.groups.iter().map(|group| group.attend(q, &stored, scale)).collect::<Result<Vec<_>>>()?;
        Ok(if let [only] = &out[..] { only.clone() } else { Tensor::cat(&out, 1)? })
    }

    /// To be called once after all layers: the new tokens now count as cached.
    pub fn advance(self) {
        for (n, cache) in self.rows {
            cache.advance(n);
        }
    }
}

impl Group {
    /// q (h, n, d) of the whole pass -> (h, len of the span, d).
    fn attend(&self, q: &Tensor, (keys, values): &Kv, scale: f64) -> Result<Tensor> {
        let q = q.narrow(1, self.span.start, self.span.len())?;
        let read = |x: &Tensor| match &self.past {
            Past::New => x.narrow(1, self.span.start, self.span.len()),
            Past::Run(slots) => x.narrow(1, slots.start, slots.len()),
            Past::Scattered(slots) => x.index_select(slots, 1),
        };
        let past = (read(keys)?, read(values)?);
        if self.rows > 1 {
            return step_attention(&q, &past, scale, self.mask.as_ref());
        }
        causal_attention(&q, &[past], scale, self.mask.as_ref())
    }
}

/// The memory that all rows write into; `None`: none of them keeps anything.
fn shared_pool(rows: &[(usize, &mut KvCache)]) -> Result<Option<KvPool>> {
    let mut pools = rows.iter().map(|(_, cache)| cache.pool());
    let first = pools.next().flatten();
    let same = |pool: Option<&KvPool>| match (first, pool) {
        (Some(first), Some(pool)) => first.is(pool),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if !pools.all(same) {
        return Err(Error::Prompt("the rows of one pass do not share one cache".into()));
    }
    Ok(first.cloned())
}

fn groups(rows: &[(usize, &mut KvCache)], kept: bool, shape: &CacheShape) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    let (mut first, mut start) = (0, 0);
    while first < rows.len() {
        let members = &rows[first..first + if kept { steps_together(&rows[first..]) } else { 1 }];
        let span = start..start + members.iter().map(|row| row.0).sum::<usize>();
        (first, start) = (first + members.len(), span.end);
        let past = if kept { past(members, shape)? } else { Past::New };
        groups.push(Group { span, past, rows: members.len(), mask: mask(members, shape)? });
    }
    Ok(groups)
}

fn length(row: &(usize, &mut KvCache)) -> usize {
    row.1.len() + row.0
}

/// How many of the first rows attend together: one, or all that have one new token each and lengths that are alike.
fn steps_together(rows: &[(usize, &mut KvCache)]) -> usize {
    let (mut least, mut most) = (usize::MAX, 0);
    let alike = rows.iter().take_while(|row| {
        (least, most) = (least.min(length(row)), most.max(length(row)));
        row.0 == 1 && most <= 2 * least + PADDING
    });
    alike.count().max(1)
}

/// Where the tokens of each row lie, each list as long as the longest: what is missing repeats the row's first token, and
/// the mask hides it.
fn past(rows: &[(usize, &mut KvCache)], shape: &CacheShape) -> Result<Past> {
    let longest = rows.iter().map(length).max().unwrap_or(0);
    let mut slots = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        let first = slots.len();
        slots.extend(row.1.slots(0..length(row)));
        slots.resize(first + longest, slots[first]);
    }
    match slots[..] {
        [first, ..] if rows.len() == 1 && slots.is_sorted_by(|a, b| a + 1 == *b) => {
            Ok(Past::Run(first as usize..first as usize + slots.len()))
        }
        _ => Ok(Past::Scattered(Tensor::new(slots, &shape.device)?)),
    }
}

/// Hides from one row's new tokens those after them (n, l), or from each of several rows what is beyond its length
/// (1, b, 1, l). Nobody needs one where nothing is hidden.
fn mask(rows: &[(usize, &mut KvCache)], shape: &CacheShape) -> Result<Option<Tensor>> {
    let longest = rows.iter().map(length).max().unwrap_or(0);
    let (sees, dims): (Vec<usize>, _) = match rows {
        [row] => ((row.1.len() + 1..=longest).collect(), vec![row.0, longest]),
        _ => (rows.iter().map(length).collect(), vec![1, rows.len(), 1, longest]),
    };
    if sees.iter().all(|&seen| seen == longest) {
        return Ok(None);
    }
    let hidden = |seen: usize| (0..longest).map(move |j| if j < seen { 0.0 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = sees.into_iter().flat_map(hidden).collect();
    Ok(Some(Tensor::from_vec(mask, dims, &shape.device)?.to_dtype(shape.dtype)?))
}
