//! GATED XATTN-DENSE: text attends to visual tokens through gates that start closed (paper section 3.1.2).

use std::ops::Range;

use candle_core::{DType, Shape, Tensor};
use candle_nn::Init;

use super::config::CrossAttentionConfig;
use super::resampler::FeedForward;
use crate::error::Result;
use crate::kernels::attention::{Kv, attention, merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::Weights;

const NORM_EPS: f32 = 1e-5;

/// One gated cross-attention, placed before one layer of the language model.
#[derive(Debug, Clone)]
pub struct GatedCrossAttention {
    heads: usize,
    scale: f64,
    norm: LayerNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
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
        let w = weights.pp("attention");
        Ok(Self {
            heads: config.heads,
            scale: (config.head_width as f64).powf(-0.5),
            norm: LayerNorm::new(text_width, NORM_EPS, w.pp("norm"))?,
            to_q: Linear::new(text_width, inner, w.pp("to_q"))?,
            to_kv: Linear::new(media_width, 2 * inner, w.pp("to_kv"))?,
            to_out: Linear::new(inner, text_width, w.pp("to_out"))?,
            attention_gate: weights.get(Shape::from(1), "attention_gate", Init::Const(0.0))?,
            feed_forward: FeedForward::new(
                text_width,
                config.feed_forward_multiple,
                config.activation,
                weights.pp("feed_forward"),
            )?,
            feed_forward_gate: weights.get(Shape::from(1), "feed_forward_gate", Init::Const(0.0))?,
        })
    }

    /// Tells whether the attention gate differs from 0.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.attention_gate.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().any(|&gate| gate != 0.0))
    }

    /// Projects the visual tokens of one medium (q, d) to keys and values, (h, q, d) each.
    ///
    /// # Errors
    /// The tokens have another width than `media_width`.
    pub fn project_kv(&self, visual_tokens: &Tensor) -> Result<Kv> {
        let kv = self.to_kv.forward(visual_tokens)?.chunk(2, 1)?;
        Ok((split_heads(&kv[0], self.heads)?.contiguous()?, split_heads(&kv[1], self.heads)?.contiguous()?))
    }

    /// x (n, d) -> (n, d). `spans` are in order; positions outside every span attend to no medium, and the feed-forward
    /// runs for all positions.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn forward(&self, x: &Tensor, spans: &[CrossAttentionSpan]) -> Result<Tensor> {
        let x = match spans {
            [] => x.clone(),
            _ => (x + self.attend(x, spans)?.broadcast_mul(&self.attention_gate.tanh()?)?)?,
        };
        let dense = self.feed_forward.forward(&x)?.broadcast_mul(&self.feed_forward_gate.tanh()?)?;
        Ok((x + dense)?)
    }

    /// Computes attention inside the spans only; it is zero elsewhere.
    fn attend(&self, x: &Tensor, spans: &[CrossAttentionSpan]) -> Result<Tensor> {
        let n = x.dim(0)?;
        let q = split_heads(&self.to_q.forward(&self.norm.forward(x)?)?, self.heads)?; // (h, n, d)
        let zeros = |len: usize| Tensor::zeros((self.heads, len, q.dim(2)?), x.dtype(), x.device());
        let mut parts = Vec::with_capacity(2 * spans.len() + 1);
        let mut end = 0;
        for span in spans {
            if span.positions.start > end {
                parts.push(zeros(span.positions.start - end)?);
            }
            let q = q.narrow(1, span.positions.start, span.positions.len())?;
            parts.push(attention(&q, std::slice::from_ref(span.kv), self.scale, span.mask)?);
            end = span.positions.end;
        }
        if n > end {
            parts.push(zeros(n - end)?);
        }
        self.to_out.forward(&merge_heads(&Tensor::cat(&parts, 1)?)?)
    }
}

/// Text positions that attend to visual tokens.
pub struct CrossAttentionSpan<'a> {
    /// Positions in the packed axis.
    pub positions: Range<usize>,
    /// Keys and values, (h, q, d) each.
    pub kv: &'a Kv,
    /// Mask that is added to the scores (length of the span, q); `None`: every position attends to all visual tokens.
    pub mask: Option<&'a Tensor>,
}
