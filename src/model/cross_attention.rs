//! GATED XATTN-DENSE: text looks at visual tokens through gates that start closed (paper section 3.1.2).

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

/// One gated cross-attention, standing before one layer of the language model.
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
    /// `text_width` is the language model's width, `media_width` that of the visual tokens.
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

    /// Whether the attention gate differs from 0.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.attention_gate.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().any(|&gate| gate != 0.0))
    }

    /// Keys and values of one medium, computed once: visual tokens (q, d) -> (h, q, d) each.
    pub fn keys_values(&self, visual_tokens: &Tensor) -> Result<Kv> {
        let kv = self.to_kv.forward(visual_tokens)?.chunk(2, 1)?;
        Ok((split_heads(&kv[0], self.heads)?.contiguous()?, split_heads(&kv[1], self.heads)?.contiguous()?))
    }

    /// x (n, d) -> (n, d). Tokens outside every span of `looks`, which are in order, attend to nothing; the feed-forward
    /// runs for all.
    pub fn forward(&self, x: &Tensor, looks: &[Look]) -> Result<Tensor> {
        let x = match looks {
            [] => x.clone(),
            _ => (x + self.attend(x, looks)?.broadcast_mul(&self.attention_gate.tanh()?)?)?,
        };
        let dense = self.feed_forward.forward(&x)?.broadcast_mul(&self.feed_forward_gate.tanh()?)?;
        Ok((x + dense)?)
    }

    /// Only what a token sees is computed; the rest is zero.
    fn attend(&self, x: &Tensor, looks: &[Look]) -> Result<Tensor> {
        let n = x.dim(0)?;
        let q = split_heads(&self.to_q.forward(&self.norm.forward(x)?)?, self.heads)?; // (h, n, d)
        let zeros = |len: usize| Tensor::zeros((self.heads, len, q.dim(2)?), x.dtype(), x.device());
        let mut parts = Vec::with_capacity(2 * looks.len() + 1);
        let mut end = 0;
        for look in looks {
            if look.span.start > end {
                parts.push(zeros(look.span.start - end)?);
            }
            let q = q.narrow(1, look.span.start, look.span.len())?;
            parts.push(attention(&q, std::slice::from_ref(look.keys_values), self.scale, look.mask)?);
            end = look.span.end;
        }
        if n > end {
            parts.push(zeros(n - end)?);
        }
        self.to_out.forward(&merge_heads(&Tensor::cat(&parts, 1)?)?)
    }
}

/// Text positions that look at visual tokens.
pub struct Look<'a> {
    /// In the packed axis.
    pub span: Range<usize>,
    /// (h, q, d) each.
    pub keys_values: &'a Kv,
    /// Added to the scores (len of the span, q): which of the tokens each position sees. `None`: all.
    pub mask: Option<&'a Tensor>,
}
