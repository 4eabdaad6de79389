//! Attention on the CPU in f32, in blocks of queries and keys: the scores of a block stay in the cache of a core
//! (FlashAttention, arXiv 2205.14135).

use std::ops::Range;

use candle_core::{CpuStorage, D, Storage, StorageRef, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::Kv;
use crate::error::Result;
use crate::kernels::floats::{Floats, floats, on_cpu_in_f32, sum};
use crate::kernels::gelu::exp;
use crate::kernels::product::{MatrixView, add_product};

/// Queries of one block, at most.
const QUERIES: usize = 48;

/// Keys of one block, at most. A block lies in one piece, so the bits of the sums do not depend on where the pieces lie.
const KEYS: usize = 512;

/// Tells whether this kernel computes the attention: on the CPU in f32, without gradients.
pub(super) fn supports(q: &Tensor, pieces: &[Kv]) -> bool {
    let mut tensors = pieces.iter().flat_map(|(k, v)| [k, v]).chain([q]);
    tensors.all(|x| on_cpu_in_f32(x) && !x.track_op())
}

/// Computes [`attention`](super::attention). Keys and values are read in place.
pub(super) fn attention(q: &Tensor, pieces: &[Kv], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let ((h, n, d), h_kv, device) = (q.dims3()?, pieces[0].0.dim(0)?, q.device());
    let rows = h / h_kv * n;
    let readable = |(k, v): &Kv| Ok((readable(k)?, readable(v)?));
    let pieces = pieces.iter().map(readable).collect::<candle_core::Result<Vec<_>>>()?;
    let pieces: Vec<_> = pieces.iter().map(|(k, v)| (Heads::new(k), Heads::new(v))).collect();
    let blocks = key_blocks(&pieces);
    let (q, mask) = ((q.contiguous()? * scale)?, mask.map(Tensor::contiguous).transpose()?);
    let (q, mask) = (floats(&q)?, mask.as_ref().map(Mask::new).transpose()?);
    let l = blocks.last().map_or(0, |block| block.keys.end);
    let mut out = vec![0f32; h * n * d];
    let queries = rows.div_ceil(rows.div_ceil(QUERIES).max(1)).max(1);
    let heads = out.par_chunks_mut(rows * d).zip(q.par_chunks(rows * d)).enumerate();
    heads.for_each(|(head, (out, q))| {
        let parts = out.par_chunks_mut(queries * d).zip(q.par_chunks(queries * d)).enumerate();
        parts.for_each(|(i, (out, q))| {
            let first = head * rows + i * queries; // of (h, n)
            let attend = |block: &KeyBlock| {
                let mask = |row: usize| mask.as_ref().map(|mask| (mask.row(first + row, n), l));
                block.attend(q, d, head, mask)
            };
            merge(out, d, &blocks.par_iter().map(attend).collect::<Vec<_>>());
        });
    });
    Ok(Tensor::from_vec(out, (h, n, d), device)?)
}

/// Keys and values of one block.
struct KeyBlock<'p, 't> {
    k: &'p Heads<'t>,
    v: &'p Heads<'t>,
    /// Of the piece.
    tokens: Range<usize>,
    /// Of all pieces.
    keys: Range<usize>,
}

fn key_blocks<'p, 't>(pieces: &'p [(Heads<'t>, Heads<'t>)]) -> Vec<KeyBlock<'p, 't>> {
    let (mut blocks, mut start) = (Vec::new(), 0);
    for (k, v) in pieces {
        for first in (0..k.len).step_by(KEYS) {
            let tokens = first..k.len.min(first + KEYS);
            let keys = start + tokens.start..start + tokens.end;
            blocks.push(KeyBlock { k, v, tokens, keys });
        }
        start += k.len;
    }
    blocks
}

/// Attention to one block of keys.
struct Partial {
    /// Sum of the values (b, d), weighted by the exponentials of their scores relative to `most`.
    values: Vec<f32>,
    /// Largest score of each query.
    most: Vec<f32>,
    /// Sum of the exponentials of each query.
    sums: Vec<f32>,
}

impl KeyBlock<'_, '_> {
    /// Attends with some scaled queries `q` (b, d) of one key and value head. `mask` returns what is added to the last scores of a
    /// query, and the number of all its scores.
    fn attend<'m>(
        &self,
        q: &[f32],
        d: usize,
        head: usize,
        mask: impl Fn(usize) -> Option<(&'m [f32], usize)>,
    ) -> Partial {
        let (b, l) = (q.len() / d, self.keys.len());
        let (mut scores, mut values) = (vec![0f32; b * l], vec![0f32; b * d]);
        let q = MatrixView::new(q, (b, d), d);
        add_product(&mut scores, l, q, self.k.head(head, &self.tokens).transposed(), Parallelism::None);
        let (mut most, mut sums) = (Vec::with_capacity(b), Vec::with_capacity(b));
        for (row, scores) in scores.chunks_exact_mut(l).enumerate() {
            if let Some((mask, all)) = mask(row) {
                let unmasked = all - mask.len();
                let masked = unmasked.clamp(self.keys.start, self.keys.end)..self.keys.end;
                let mask = &mask[masked.start - unmasked.min(masked.start)..][..masked.len()];
                let scores = &mut scores[masked.start - self.keys.start..];
                scores.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
            }
            // The largest score of a block that is hidden as a whole is minus infinity.
            most.push(largest(scores).max(f32::MIN));
            scores.iter_mut().for_each(|score| *score = weight(*score - most[row]));
            sums.push(sum(scores));
        }
        let p = MatrixView::new(&scores, (b, l), l);
        add_product(&mut values, d, p, self.v.head(head, &self.tokens), Parallelism::None);
        Partial { values, most, sums }
    }
}

/// Merges the attention to all blocks of keys into `out` (b, d), which is zero.
fn merge(out: &mut [f32], d: usize, partials: &[Partial]) {
    for (row, out) in out.chunks_exact_mut(d).enumerate() {
        let most = partials.iter().map(|partial| partial.most[row]).fold(f32::MIN, f32::max);
        let mut sum = 0.0;
        for partial in partials {
            let weight = weight(partial.most[row] - most);
            sum += weight * partial.sums[row];
            out.iter_mut().zip(&partial.values[row * d..]).for_each(|(out, value)| *out += weight * value);
        }
        out.iter_mut().for_each(|out| *out /= sum);
    }
}

/// Returns e^x for x <= 0; 0 where this is so small that a hidden key must not count.
#[inline(always)]
fn weight(x: f32) -> f32 {
    /// Below it, `exp` is constant.
    const LEAST: f32 = -87.0;
    if x < LEAST { 0.0 } else { exp(x) }
}

/// Returns the largest of some scores.
fn largest(scores: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        lanes
            .iter_mut()
            .zip(chunk)
            .for_each(|(lane, &score)| *lane = if score > *lane { score } else { *lane });
    }
    lanes.into_iter().fold(rest, f32::max)
}

/// Keys or values of one piece (h_kv, l, d), in a tensor that may have more tokens.
struct Heads<'t> {
    storage: StorageRef<'t>,
    /// Index of the first value.
    start: usize,
    /// Distance of two heads, and of two tokens.
    strides: (usize, usize),
    len: usize,
    width: usize,
}

/// Returns keys or values whose numbers of one token are adjacent.
fn readable(x: &Tensor) -> candle_core::Result<Tensor> {
    let (_, len, width) = x.dims3()?;
    let strides = x.stride();
    let adjacent = strides[2] == 1 && (strides[1] >= width || len <= 1);
    if adjacent { Ok(x.clone()) } else { x.contiguous() }
}

impl<'t> Heads<'t> {
    /// Borrows a [`readable`] tensor.
    fn new(x: &'t Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        let (dims, strides) = (layout.dims(), layout.stride());
        let strides = (strides[0], strides[1].max(dims[2]));
        Self { start: layout.start_offset(), strides, len: dims[1], width: dims[2], storage }
    }

    /// Returns some tokens of one head.
    fn head(&self, head: usize, tokens: &Range<usize>) -> MatrixView<'_> {
        let Storage::Cpu(CpuStorage::F32(values)) = &*self.storage else {
            unreachable!("`supports` has checked the storage")
        };
        let values = &values[self.start + head * self.strides.0 + tokens.start * self.strides.1..];
        MatrixView::new(values, (tokens.len(), self.width), self.strides.1)
    }
}

/// Mask (h, n, m), or with one head or one row for all.
struct Mask<'t> {
    values: Floats<'t>,
    heads: usize,
    rows: usize,
    keys: usize,
}

impl<'t> Mask<'t> {
    fn new(mask: &'t Tensor) -> candle_core::Result<Self> {
        let (rows, keys) = (mask.dim(D::Minus2)?, mask.dim(D::Minus1)?);
        Ok(Self { heads: mask.elem_count() / (rows * keys).max(1), rows, keys, values: floats(mask)? })
    }

    /// Returns the mask of row `row` of (h, n).
    fn row(&self, row: usize, n: usize) -> &[f32] {
        let row = row / n % self.heads * self.rows + row % n % self.rows;
        &self.values[row * self.keys..][..self.keys]
    }
}
