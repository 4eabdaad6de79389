//! Sizes, kinds and places of the gated cross-attentions.

use serde::{Deserialize, Serialize};

use super::{FeedForwardConfig, NormKind, check_sizes, is_default};
use crate::kernels::activation::Activation;

/// Sizes and places of the gated cross-attentions, GATED XATTN-DENSE (paper section 3.1.2).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossAttentionConfig {
    /// Layers of the language model that a gated cross-attention precedes.
    pub placement: Placement,
    /// Attention heads.
    pub heads: usize,
    /// Key and value heads, if they are fewer than the query heads; each serves as many query heads as the others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv_heads: Option<usize>,
    /// Width of one head.
    pub head_width: usize,
    /// Hidden width of the feed-forward, in multiples of the language model's width.
    pub feed_forward_multiple: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Hidden width of the feed-forward, for a width that is no multiple of the language model's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feed_forward_width: Option<usize>,
    /// Kind of the feed-forward.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feed_forward: FeedForwardKind,
    /// Normalisation before attention and before the feed-forward.
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm: NormKind,
    /// Epsilon of every normalisation.
    #[serde(default = "default_norm_eps", skip_serializing_if = "is_default_norm_eps")]
    pub norm_eps: f64,
    /// Normalisation of queries and keys over the width of one head, with the tensors `q_norm` and `k_norm`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: Option<NormKind>,
    /// Shape of both gates.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gate: GateShape,
    /// Projections of visual tokens to keys and values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv_projection: KvProjectionKind,
    /// Whether the linear maps of attention have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention_bias: bool,
    /// Whether the linear maps of the feed-forward have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feed_forward_bias: bool,
}

/// Shape of a gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateShape {
    /// One number (1): the paper.
    #[default]
    Scalar,
    /// One number per channel of the language model (d): some IDEFICS models.
    PerChannel,
}

/// Kind of the projections of visual tokens to keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvProjectionKind {
    /// One matrix `to_kv` for keys, then values: OpenFlamingo.
    #[default]
    Fused,
    /// Matrices `to_k` and `to_v`: IDEFICS, mllama.
    Separate,
}

/// Kind of a feed-forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardKind {
    /// down(activation(up(x))): the paper.
    #[default]
    Plain,
    /// down(activation(gate(x)) * up(x)): SwiGLU with the activation `silu`, as in IDEFICS and mllama.
    Gated,
}

/// Epsilon of a normalisation, unless a description names another.
pub(super) const DEFAULT_NORM_EPS: f64 = 1e-5;

fn default_norm_eps() -> f64 {
    DEFAULT_NORM_EPS
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_default_norm_eps(eps: &f64) -> bool {
    *eps == DEFAULT_NORM_EPS
}

impl CrossAttentionConfig {
    /// Returns the paper's kinds of norms, gates and feed-forward with these sizes.
    pub fn new(
        placement: Placement,
        heads: usize,
        head_width: usize,
        feed_forward_multiple: usize,
        activation: Activation,
    ) -> Self {
        Self {
            placement,
            heads,
            kv_heads: None,
            head_width,
            feed_forward_multiple,
            activation,
            feed_forward_width: None,
            feed_forward: FeedForwardKind::default(),
            norm: NormKind::default(),
            norm_eps: DEFAULT_NORM_EPS,
            qk_norm: None,
            gate: GateShape::default(),
            kv_projection: KvProjectionKind::default(),
            attention_bias: false,
            feed_forward_bias: false,
        }
    }

    /// Checks every size.
    ///
    /// # Errors
    /// The name and value of a size that is zero or absurdly large.
    pub(in crate::model) fn check(&self) -> Result<(), String> {
        check_sizes(&[
            ("cross_attention.placement.every", self.placement.every),
            ("cross_attention.heads", self.heads),
            ("cross_attention.head_width", self.head_width),
            ("cross_attention.feed_forward_multiple", self.feed_forward_multiple),
            ("cross_attention.feed_forward_width", self.feed_forward_width.unwrap_or(1)),
        ])?;
        if let Some(kv_heads) = self.kv_heads
            && (kv_heads == 0 || !self.heads.is_multiple_of(kv_heads))
        {
            return Err(format!("cross_attention.kv_heads is {kv_heads}, with {} heads", self.heads));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!("cross_attention.norm_eps is {}", self.norm_eps));
        }
        Ok(())
    }

    /// Returns the number of key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Returns the feed-forward for a language model of width `text_width`.
    pub(in crate::model) fn feed_forward(&self, text_width: usize) -> FeedForwardConfig {
        FeedForwardConfig {
            hidden: self.feed_forward_width.unwrap_or(self.feed_forward_multiple * text_width),
            activation: self.activation,
            gated: self.feed_forward == FeedForwardKind::Gated,
            bias: self.feed_forward_bias,
            norm: self.norm,
            norm_eps: self.norm_eps as f32,
        }
    }
}

/// Layers of the language model that a gated cross-attention precedes: `first`, `first + every`, `first + 2 * every` ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Distance between two of them, in layers.
    pub every: usize,
    /// The first of them: 0 in the paper and IDEFICS, `every - 1` in OpenFlamingo and Otter.
    pub first: usize,
}

/// One step of the layer plan, which a family gives. The paper puts cross-attention before layers; Llama 3.2 Vision has it
/// as layers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// Layer of the language model, by index.
    Language(usize),
    /// Gated cross-attention, by index.
    CrossAttention(usize),
}

impl Placement {
    /// Tells whether a gated cross-attention precedes `layer`.
    pub fn has(&self, layer: usize) -> bool {
        layer >= self.first && (layer - self.first).is_multiple_of(self.every.max(1))
    }

    /// Returns the layer plan over `layers` layers of the language model.
    pub fn plan(&self, layers: usize) -> Vec<LayerStep> {
        let (mut plan, mut blocks) = (Vec::new(), 0);
        for layer in 0..layers {
            if self.has(layer) {
                plan.push(LayerStep::CrossAttention(blocks));
                blocks += 1;
            }
            plan.push(LayerStep::Language(layer));
        }
        plan
    }
}
