//! Sizes and conventions in which the members of the family differ, as data.

use serde::{Deserialize, Serialize};

use crate::kernels::activation::Activation;
pub use crate::kernels::norm::NormKind;

/// Configuration of the parts between the vision encoder and the language model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlamingoConfig {
    /// Sizes of the Perceiver resampler.
    pub resampler: ResamplerConfig,
    /// Sizes and places of the gated cross-attentions.
    pub cross_attention: CrossAttentionConfig,
    /// Rule that decides which text position attends to which media.
    #[serde(default, skip_serializing_if = "is_default")]
    pub media_attention: MediaAttentionConfig,
}

/// Tells whether a field has its default, so that a description written by this build stays readable by older ones.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Sizes of the Perceiver resampler (paper section 3.1.1; table 4 of its second version: depth 6, width 1536, 16 heads of 96,
/// 64 latents, squared ReLU, feed-forward 4 times the width).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ResamplerConfig {
    /// Width d of latents and visual tokens. Features of another width are projected first.
    pub width: usize,
    /// Number of layers.
    pub depth: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width of one head.
    pub head_width: usize,
    /// Visual tokens q per medium.
    pub latents: usize,
    /// Frames for which a temporal embedding was learned; 0 for a model without one.
    pub frames: usize,
    /// Hidden width of the feed-forward, in multiples of `width`.
    pub feed_forward_multiple: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
}

/// Part of the media before a position that the position attends to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VisibleMedia {
    /// The last medium at or before the position: the paper, OpenFlamingo, IDEFICS.
    #[default]
    Last,
    /// All media at or before the position.
    All,
    /// The last medium and the media whose markers directly precede its marker, without text between them: mllama.
    AdjacentGroup,
}

/// Attention of a position to its media.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaAttention {
    /// The position attends to the visible media.
    On,
    /// The output of attention is zero.
    #[default]
    Zero,
    /// The position attends to all media of its row, later ones too. Zero in a row without media.
    Unmasked,
}

/// Treatment of positions without a visible medium. The default is OpenFlamingo's and IDEFICS': attention is zero, and
/// the feed-forward runs. mllama by Meta is (zero, off); mllama in Hugging Face is (unmasked, off).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WithoutMedia {
    /// `zero` or `unmasked`.
    pub attention: MediaAttention,
    /// Whether the feed-forward of the gated cross-attention runs.
    pub mlp: bool,
}

impl Default for WithoutMedia {
    fn default() -> Self {
        Self { attention: MediaAttention::Zero, mlp: true }
    }
}

/// Rule of one family that decides which media a position attends to. The default is OpenFlamingo's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaAttentionConfig {
    /// Visible media.
    pub visible: VisibleMedia,
    /// Positions without a visible medium.
    pub without_media: WithoutMedia,
}

impl MediaAttentionConfig {
    /// Checks the rule.
    ///
    /// # Errors
    /// The field that has no meaning.
    pub fn check(&self) -> Result<(), String> {
        match self.without_media.attention {
            MediaAttention::On => Err("media_attention.without_media.attention is `on`".into()),
            MediaAttention::Zero | MediaAttention::Unmasked => Ok(()),
        }
    }
}

/// Widths of the joint space of images, videos and texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JointSpaceConfig {
    /// Width of the joint space.
    pub width: usize,
    /// Width of the text tower's pooled states.
    pub text_width: usize,
}

/// Sizes and places of the gated cross-attentions, GATED XATTN-DENSE (paper section 3.1.2).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossAttentionConfig {
    /// Layers of the language model that a gated cross-attention precedes.
    pub placement: Placement,
    /// Attention heads.
    pub heads: usize,
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

/// Sizes and kinds of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FeedForwardConfig {
    /// Hidden width.
    pub hidden: usize,
    pub activation: Activation,
    /// Whether a third matrix gates the hidden states (SwiGLU with [`Activation::Silu`]).
    pub gated: bool,
    pub bias: bool,
    pub norm: NormKind,
    pub norm_eps: f32,
}

const DEFAULT_NORM_EPS: f64 = 1e-5;

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
            head_width,
            feed_forward_multiple,
            activation,
            feed_forward_width: None,
            feed_forward: FeedForwardKind::default(),
            norm: NormKind::default(),
            norm_eps: DEFAULT_NORM_EPS,
            qk_norm: None,
            gate: GateShape::default(),
            attention_bias: false,
            feed_forward_bias: false,
        }
    }

    /// Returns the feed-forward for a language model of width `text_width`.
    pub(super) fn feed_forward(&self, text_width: usize) -> FeedForwardConfig {
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

impl ResamplerConfig {
    pub(super) fn feed_forward(&self) -> FeedForwardConfig {
        FeedForwardConfig {
            hidden: self.feed_forward_multiple * self.width,
            activation: self.activation,
            gated: false,
            bias: false,
            norm: NormKind::LayerNorm,
            norm_eps: DEFAULT_NORM_EPS as f32,
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

impl FlamingoConfig {
    /// Checks every size.
    ///
    /// # Errors
    /// The name and value of a size that is zero or absurdly large.
    pub fn check(&self) -> Result<(), String> {
        let (r, x) = (&self.resampler, &self.cross_attention);
        for (name, size) in [
            ("resampler.width", r.width),
            ("resampler.depth", r.depth),
            ("resampler.heads", r.heads),
            ("resampler.head_width", r.head_width),
            ("resampler.latents", r.latents),
            ("resampler.feed_forward_multiple", r.feed_forward_multiple),
            ("cross_attention.placement.every", x.placement.every),
            ("cross_attention.heads", x.heads),
            ("cross_attention.head_width", x.head_width),
            ("cross_attention.feed_forward_multiple", x.feed_forward_multiple),
            ("cross_attention.feed_forward_width", x.feed_forward_width.unwrap_or(1)),
        ] {
            if size == 0 || size > 1 << 20 {
                return Err(format!("{name} is {size}"));
            }
        }
        if !(x.norm_eps.is_finite() && x.norm_eps > 0.0) {
            return Err(format!("cross_attention.norm_eps is {}", x.norm_eps));
        }
        self.media_attention.check()
    }
}
