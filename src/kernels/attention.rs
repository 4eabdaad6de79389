//! Scaled dot-product attention over keys and values that are stored in several pieces.

use candle_core::{D, Tensor};

use super::linear::blas_compatible;
use super::norm::softmax;
use crate::error::Result;

mod cpu;

/// Keys and values of one piece: (h_kv, l, d) each.
pub type Kv = (Tensor, Tensor);

/// Computes the attention of `q` (h, n, d) to the pieces in order: -> (h, n, d).
///
/// `h` is a multiple of `h_kv` (grouped queries: head i reads key head i / (h / h_kv)). `mask` (n, m) or
/// (h, n, m), with 1 in place of n or h for all rows or heads, is added to the scores of the last m keys: those
/// of the last piece, or of all pieces. The pieces are never concatenated, so a prefix that sequences share is
/// not copied.
///
/// # Errors
/// The tensor library refused an operation.
pub fn attention(q: &Tensor, pieces: &[Kv], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if let ([piece], None) = (pieces, mask)
        && flash::supports(q, piece)
    {
        return flash::attention(q, piece, scale, false);
    }
    unfused(q, pieces, scale, mask)
}

/// Computes causal attention: the queries are the last `n` of the `l` positions, and each attends to
/// positions up to its own. Shapes are those of [`attention`].
///
/// `mask` is the causal mask, or `None` if no position is masked, as for a single query. Fused kernels apply
/// the causal mask themselves and ignore this argument.
///
/// # Errors
/// The tensor library refused an operation.
pub fn causal_attention(q: &Tensor, pieces: &[Kv], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if let [piece] = pieces
        && flash::supports(q, piece)
    {
        return flash::attention(q, piece, scale, true);
    }
    unfused(q, pieces, scale, mask)
}

/// Attention with a mask that is a tensor.
fn unfused(q: &Tensor, pieces: &[Kv], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    if cpu::supports(q, pieces) {
        return cpu::attention(q, pieces, scale, mask);
    }
    generic(q, pieces, scale, mask)
}

/// Attention in candle's operations, on any device.
fn generic(q: &Tensor, pieces: &[Kv], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (h, n, d) = q.dims3()?;
    let h_kv = pieces[0].0.dim(0)?;
    let group = h / h_kv;
    let q = (q.contiguous()?.reshape((h_kv, group * n, d))? * scale)?;
    let mut scores = pieces
        .iter()
        .map(|(k, _)| q.matmul(&k.transpose(D::Minus2, D::Minus1)?))
        .collect::<candle_core::Result<Vec<_>>>()?;
    if let Some(mask) = mask {
        let m = mask.dim(D::Minus1)?;
        if scores.last().is_some_and(|last| last.dims()[2] != m) {
            scores = vec![Tensor::cat(&scores, D::Minus1)?];
        }
        if let Some(last) = scores.last_mut() {
            let by_head = last.reshape((h_kv * group, n, m))?; // (h, n, m)
            *last = by_head.broadcast_add(mask)?.reshape((h_kv, group * n, m))?;
        }
    }
    let scores = if let [only] = &scores[..] { only.clone() } else { Tensor::cat(&scores, D::Minus1)? };
    let probabilities = softmax(&scores)?;
    let mut out: Option<Tensor> = None;
    let mut start = 0;
    for (_, v) in pieces {
        let len = v.dim(1)?;
        let part = blas_compatible(&probabilities.narrow(2, start, len)?)?.matmul(v)?;
        out = Some(match out {
            Some(sum) => (sum + part)?,
            None => part,
        });
        start += len;
    }
    Ok(out.expect("attention has keys").reshape((h, n, d))?)
}

/// Computes the attention of one decode step of a batch, with one query per sequence: `q` (h, b, d) to the
/// keys and values of the sequences (h_kv, b * l, d), sequence after sequence: -> (h, b, d). `mask` (1, b, 1,
/// l) is added to the scores.
///
/// # Errors
/// The tensor library refused an operation.
pub fn step_attention(q: &Tensor, (k, v): &Kv, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (h, b, d) = q.dims3()?;
    let (h_kv, keys, _) = k.dims3()?;
    let (group, l) = (h / h_kv, keys / b);
    let by_row = |x: &Tensor| x.contiguous()?.reshape((h_kv * b, l, d));
    let q = (q.reshape((h_kv, group, b, d))?.transpose(1, 2)?.contiguous()? * scale)?; // (h_kv, b, group, d)
    let mut scores = q.reshape((h_kv * b, group, d))?.matmul(&by_row(k)?.transpose(1, 2)?)?;
    if let Some(mask) = mask {
        scores = scores.reshape((h_kv, b, group, l))?.broadcast_add(mask)?.reshape((h_kv * b, group, l))?;
    }
    let out = softmax(&scores)?.matmul(&by_row(v)?)?.reshape((h_kv, b, group, d))?;
    Ok(out.transpose(1, 2)?.reshape((h, b, d))?)
}

/// FlashAttention-2 (arXiv 2307.08691) from candle: no score matrix in memory, sums in f32. It supports half
/// precision on CUDA without gradients, with all keys in one piece.
#[cfg(feature = "flash-attn")]
mod flash {
    use candle_core::{DType, Tensor};

    use super::Kv;
    use crate::error::Result;

    /// Whether the kernel supports these tensors.
    pub(super) fn supports(q: &Tensor, (k, v): &Kv) -> bool {
        let width = q.dims().last().copied().unwrap_or(0);
        q.device().is_cuda()
            && matches!(q.dtype(), DType::BF16 | DType::F16)
            && width % 8 == 0
            && width <= 256
            && ![q, k, v].iter().any(|t| t.track_op())
    }

    /// Runs the kernel. Its causal mask is aligned at the last query and the last key, as ours is.
    pub(super) fn attention(q: &Tensor, (k, v): &Kv, scale: f64, causal: bool) -> Result<Tensor> {
        let by_position = |x: &Tensor| x.transpose(0, 1)?.unsqueeze(0); // (h, n, d) -> (1, n, h, d)
        let (q, k, v) = (by_position(q)?, by_position(k)?, by_position(v)?);
        let out = candle_flash_attn::flash_attn(&q, &k, &v, scale as f32, causal)?;
        Ok(out.squeeze(0)?.transpose(0, 1)?)
    }
}

/// Splits a tensor into heads: (n, h * d) -> (h, n, d).
///
/// # Errors
/// The tensor library refused an operation.
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    Ok(x.reshape((n, heads, width / heads))?.transpose(0, 1)?)
}

/// Merges heads: (h, n, d) -> (n, h * d).
///
/// # Errors
/// The tensor library refused an operation.
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (h, n, d) = x.dims3()?;
    Ok(x.transpose(0, 1)?.reshape((n, h * d))?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::kernels::finite_differences::random;

    /// Attention by head and by query in f64, over all keys at once.
    fn reference_attention(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        scale: f64,
        hidden: impl Fn(usize, usize) -> bool,
    ) -> Tensor {
        let numbers = |x: &Tensor| x.to_dtype(DType::F64).unwrap().to_vec3::<f64>().unwrap();
        let (q, k, v) = (numbers(q), numbers(k), numbers(v));
        let group = q.len() / k.len();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |head: usize, i: usize| -> Vec<f32> {
            let (keys, values) = (&k[head / group], &v[head / group]);
            let weights: Vec<f64> = (0..keys.len())
                .map(|j| if hidden(i, j) { 0.0 } else { (dot(&q[head][i], &keys[j]) * scale).exp() })
                .collect();
            let sum: f64 = weights.iter().sum();
            let of = |c: usize| weights.iter().zip(values).map(|(w, value)| w * value[c]).sum::<f64>() / sum;
            (0..values[0].len()).map(|c| of(c) as f32).collect()
        };
        let (h, n) = (q.len(), q[0].len());
        let out: Vec<f32> = (0..h).flat_map(|head| (0..n).flat_map(move |i| row(head, i))).collect();
        Tensor::from_vec(out, (h, n, v[0][0].len()), &candle_core::Device::Cpu).unwrap()
    }

    fn check(h: usize, h_kv: usize, n: usize, pieces: &[usize], causal: bool) {
        let (d, l, scale) = (8, pieces.iter().sum::<usize>(), 0.35);
        let q = random("q", &[h, n, d]);
        let (k, v) = (random("k", &[h_kv, l, d]), random("v", &[h_kv, l, d]));
        let hidden = |i: usize, j: usize| causal && j > l - n + i;
        let mask = (0..n * l).map(|at| if hidden(at / l, at % l) { f32::NEG_INFINITY } else { 0.0 });
        let mask = Tensor::from_vec(mask.collect::<Vec<_>>(), (n, l), q.device()).unwrap();
        let wanted = reference_attention(&q, &k, &v, scale, hidden);
        for (dtype, allowed) in [(DType::F32, 1e-5), (DType::F16, 5e-3)] {
            let typed = |x: &Tensor| x.to_dtype(dtype).unwrap();
            let mut start = 0;
            // Views into a longer tensor, as in a cache.
            let pieces: Vec<Kv> = pieces
                .iter()
                .map(|&len| {
                    let part = |x: &Tensor| typed(x).narrow(1, start, len).unwrap();
                    let piece = (part(&k), part(&v));
                    start += len;
                    piece
                })
                .collect();
            let q = typed(&q);
            let got = match causal {
                true => causal_attention(&q, &pieces, scale, Some(&typed(&mask))),
                false => attention(&q, &pieces, scale, None),
            };
            let error = (got.unwrap().to_dtype(DType::F32).unwrap() - &wanted).unwrap().abs().unwrap();
            let error = error.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(
                error < allowed,
                "{h} over {h_kv} heads, {n} queries, {pieces:?} keys, {dtype:?}: {error}"
            );
        }
    }

    /// A mask of the last piece only, the same for all heads or one for each, in the kernels for f32 and for other types.
    #[test]
    fn mask_covers_the_last_piece() {
        let (n, first, last) = (5, 7, 9);
        let (q, k, v) = (random("q", &[6, n, 8]), random("k", &[2, 16, 8]), random("v", &[2, 16, 8]));
        for (heads, rows) in [(1, n), (1, 1), (6, n)] {
            let hidden = |head: usize, i: usize, j: usize| (head + i % rows + j).is_multiple_of(3);
            let at = (0..heads * rows * last).map(|at| (at / last / rows, at / last % rows, at % last));
            let mask = at.map(|(head, i, j)| if hidden(head, i, j) { f32::NEG_INFINITY } else { 0.0 });
            let mask = Tensor::from_vec(mask.collect::<Vec<_>>(), (heads, rows, last), q.device()).unwrap();
            let mask = if heads == 1 { mask.squeeze(0).unwrap() } else { mask };
            let wanted = |head: usize| {
                let of_head = |x: &Tensor, i: usize| x.narrow(0, i, 1).unwrap();
                let hidden = |i: usize, j: usize| j >= first && hidden(head % heads, i, j - first);
                reference_attention(
                    &of_head(&q, head),
                    &of_head(&k, head / 3),
                    &of_head(&v, head / 3),
                    0.35,
                    hidden,
                )
            };
            let wanted = Tensor::cat(&(0..6).map(wanted).collect::<Vec<_>>(), 0).unwrap();
            for (dtype, allowed) in [(DType::F32, 1e-5), (DType::F16, 5e-3)] {
                let typed = |x: &Tensor| x.to_dtype(dtype).unwrap();
                let part = |start, len| {
                    (typed(&k).narrow(1, start, len).unwrap(), typed(&v).narrow(1, start, len).unwrap())
                };
                let pieces = [part(0, first), part(first, last)];
                let got = attention(&typed(&q), &pieces, 0.35, Some(&typed(&mask))).unwrap();
                let error = (got.to_dtype(DType::F32).unwrap() - &wanted).unwrap().abs().unwrap();
                let error = error.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(error < allowed, "{heads} masks of {rows} rows, {dtype:?}: {error}");
            }
        }
    }

    #[test]
    fn pieces_equal_one_piece() {
        for pieces in [&[13][..], &[6, 7], &[1, 9, 3]] {
            check(2, 2, 5, pieces, false);
            check(6, 2, 5, pieces, true);
            check(6, 3, 1, pieces, true);
            check(4, 1, 13, pieces, true);
        }
    }
}
