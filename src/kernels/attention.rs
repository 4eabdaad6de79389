//! Scaled dot-product attention over keys that lie in several pieces.

use candle_core::{D, Tensor};

use super::norm::softmax;
use crate::error::Result;

/// Keys and values of one piece: (h_kv, l, d) each.
pub type KeysValues = (Tensor, Tensor);

/// Attention of `q` (h, n, d) to the pieces in order: -> (h, n, d).
///
/// `h` is a multiple of `h_kv` (grouped queries: head i reads key head i / (h / h_kv)). `mask` (n, l) is added to the
/// scores, l the length of all pieces together. The pieces are never joined: only the scores are, so a prefix that
/// rows share is read where it lies.
pub fn attention(q: &Tensor, pieces: &[KeysValues], scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (h, n, d) = q.dims3()?;
    let h_kv = pieces[0].0.dim(0)?;
    let group = h / h_kv;
    let q = (q.contiguous()?.reshape((h_kv, group * n, d))? * scale)?;
    let scores = pieces
        .iter()
        .map(|(k, _)| q.matmul(&k.transpose(D::Minus2, D::Minus1)?))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let mut scores = if let [only] = &scores[..] { only.clone() } else { Tensor::cat(&scores, D::Minus1)? };
    if let Some(mask) = mask {
        let l = mask.dim(D::Minus1)?;
        let by_head = scores.reshape((h_kv * group, n, l))?; // (h, n, l)
        scores = by_head.broadcast_add(mask)?.reshape((h_kv, group * n, l))?;
    }
    let probabilities = softmax(&scores)?;
    let mut out: Option<Tensor> = None;
    let mut start = 0;
    for (_, v) in pieces {
        let len = v.dim(1)?;
        let p =
            if pieces.len() == 1 { probabilities.clone() } else { probabilities.narrow(2, start, len)? };
        let part = p.matmul(v)?;
        out = Some(match out {
            Some(sum) => (sum + part)?,
            None => part,
        });
        start += len;
    }
    Ok(out.expect("attention has keys").reshape((h, n, d))?)
}

/// Attention of one query per row, of several rows at once: `q` (h, b, d) to the rows' keys and values (h_kv, b * l, d),
/// row after row: -> (h, b, d). `mask` (1, b, 1, l) is added to the scores.
pub fn attention_of_steps(
    q: &Tensor,
    (k, v): &KeysValues,
    scale: f64,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
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

/// (n, h * d) -> (h, n, d).
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    Ok(x.reshape((n, heads, width / heads))?.transpose(0, 1)?)
}

/// (h, n, d) -> (n, h * d).
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (h, n, d) = x.dims3()?;
    Ok(x.transpose(0, 1)?.reshape((n, h * d))?)
}
