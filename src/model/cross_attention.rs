//! GATED XATTN-DENSE: text attends to visual tokens through gates that start closed (paper section 3.1.2).

use candle_core::{DType, Shape, Tensor};
use candle_nn::Init;

use super::config::{CrossAttentionConfig, GateShape};
use super::feed_forward::FeedForward;
use super::kv_projection::KvProjection;
use super::media_attention::{CrossAttentionSpan, MlpPositions};
use crate::error::Result;
use crate::kernels::attention::{Kv, attention, merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::Norm;
use crate::weights::Weights;

/// One gated cross-attention with its feed-forward.
#[derive(Debug, Clone)]
pub struct GatedCrossAttention {
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    norm: Norm,
    to_q: Linear,
    kv_projection: KvProjection,
    to_out: Linear,
    /// Normalisation of queries and keys, over the width of one head.
    qk_norm: Option<(Norm, Norm)>,
    attention_gate: Tensor,
    feed_forward: FeedForward,
    feed_forward_gate: Tensor,
}

impl GatedCrossAttention {
    /// Takes the tensors of one block. `text_width` is the width of the language model, `media_width` that of the visual
    /// tokens.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(
        config: &CrossAttentionConfig,
        text_width: usize,
        media_width: usize,
        weights: Weights,
    ) -> Result<Self> {
        let inner = config.heads * config.head_width;
        let kv_inner = config.kv_heads() * config.head_width;
        let w = weights.pp("attention");
        let norm = |width, weights| Norm::new(config.norm, width, config.norm_eps as f32, weights);
        let linear = |d_in, d_out, name: &str| Linear::load(d_in, d_out, config.attention_bias, w.pp(name));
        let qk_norm = match config.qk_norm {
            None => None,
            Some(kind) => {
                let norm =
                    |name: &str| Norm::new(kind, config.head_width, config.norm_eps as f32, w.pp(name));
                Some((norm("q_norm")?, norm("k_norm")?))
            }
        };
        let gate_shape = || match config.gate {
            GateShape::Scalar => Shape::from(1),
            GateShape::PerChannel => Shape::from(text_width),
        };
        let gate = |name| weights.get(gate_shape(), name, Init::Const(0.0));
        Ok(Self {
            heads: config.heads,
            kv_heads: config.kv_heads(),
            head_width: config.head_width,
            norm: norm(text_width, w.pp("norm"))?,
            to_q: linear(text_width, inner, "to_q")?,
            kv_projection: KvProjection::new(
                config.kv_projection,
                media_width,
                kv_inner,
                config.attention_bias,
                &w,
            )?,
            to_out: linear(inner, text_width, "to_out")?,
            qk_norm,
            attention_gate: gate("attention_gate")?,
            feed_forward: FeedForward::new(
                text_width,
                &config.feed_forward(text_width),
                weights.pp("feed_forward"),
            )?,
            feed_forward_gate: gate("feed_forward_gate")?,
        })
    }

    /// Tells whether the attention gate differs from 0.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.attention_gate.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().any(|&gate| gate != 0.0))
    }

    /// Projects the visual tokens of one medium (q, d) to keys and values, (h_kv, q, d) each.
    ///
    /// # Errors
    /// The tokens have another width than `media_width`.
    pub fn project_kv(&self, visual_tokens: &Tensor) -> Result<Kv> {
        let (keys, values) = self.kv_projection.forward(visual_tokens)?;
        let mut keys = split_heads(&keys, self.kv_heads)?;
        if let Some((_, norm)) = &self.qk_norm {
            keys = norm.forward(&keys)?;
        }
        Ok((keys.contiguous()?, split_heads(&values, self.kv_heads)?.contiguous()?))
    }

    /// Returns the shape of the keys, and of the values, of `q` visual tokens.
    pub fn kv_shape(&self, q: usize) -> (usize, usize, usize) {
        (self.kv_heads, q, self.head_width)
    }

    /// x (n, d) -> (n, d). `spans` are in order; attention is zero outside every span. The feed-forward runs for the
    /// positions `mlp`.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn forward(&self, x: &Tensor, spans: &[CrossAttentionSpan], mlp: &MlpPositions) -> Result<Tensor> {
        let x = match spans {
            [] => x.clone(),
            _ => (x + self.attend(x, spans)?.broadcast_mul(&self.attention_gate.tanh()?)?)?,
        };
        if let MlpPositions::None = mlp {
            return Ok(x);
        }
        let mut dense = self.feed_forward.forward(&x)?.broadcast_mul(&self.feed_forward_gate.tanh()?)?;
        if let MlpPositions::Masked(mask) = mlp {
            dense = dense.broadcast_mul(mask)?;
        }
        Ok((x + dense)?)
    }

    /// Computes attention inside the spans only; it is zero elsewhere.
    fn attend(&self, x: &Tensor, spans: &[CrossAttentionSpan]) -> Result<Tensor> {
        let n = x.dim(0)?;
        let mut q = split_heads(&self.to_q.forward(&self.norm.forward(x)?)?, self.heads)?; // (h, n, d)
        if let Some((norm, _)) = &self.qk_norm {
            q = norm.forward(&q)?;
        }
        let zeros = |len: usize| Tensor::zeros((self.heads, len, q.dim(2)?), x.dtype(), x.device());
        let mut parts = Vec::with_capacity(2 * spans.len() + 1);
        let (mut end, mut gaps) = (0, false);
        for span in spans {
            if span.positions.start > end {
                gaps = true;
                parts.push(zeros(span.positions.start - end)?);
            }
            let q = q.narrow(1, span.positions.start, span.positions.len())?;
            let scale = (self.head_width as f64).powf(-0.5);
            parts.push(attention(&q, &span.kv, scale, span.mask)?);
            end = span.positions.end;
        }
        if n > end {
            gaps = true;
            parts.push(zeros(n - end)?);
        }
        let out = self.to_out.forward(&merge_heads(&Tensor::cat(&parts, 1)?)?)?;
        // A bias would make the output of the gaps differ from zero.
        if gaps && self.to_out.has_bias() { Ok(out.broadcast_mul(&inside(spans, n, x)?)?) } else { Ok(out) }
    }
}

/// Returns a mask (n, 1) with 1 inside the spans and 0 outside.
fn inside(spans: &[CrossAttentionSpan], n: usize, like: &Tensor) -> Result<Tensor> {
    let mut mask = vec![0f32; n];
    for span in spans {
        mask[span.positions.clone()].fill(1.0);
    }
    Ok(Tensor::from_vec(mask, (n, 1), like.device())?.to_dtype(like.dtype())?)
}

#[cfg(test)]
mod tests;
