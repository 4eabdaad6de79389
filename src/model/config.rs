//! Sizes and conventions in which the members of the family differ, as data.

use serde::{Deserialize, Serialize};

use crate::kernels::activation::Activation;
pub use crate::kernels::norm::NormKind;

mod cross_attention;

use cross_attention::DEFAULT_NORM_EPS;
pub use cross_attention::{
    CrossAttentionConfig, FeedForwardKind, GateShape, KvProjectionKind, LayerStep, Placement,
};

/// Configuration of the parts between the vision encoder and the language model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "FlamingoJson", into = "FlamingoJson")]
pub struct FlamingoConfig {
    /// Map from the features of a medium to its visual tokens.
    pub connector: ConnectorConfig,
    /// Sizes and places of the gated cross-attentions.
    pub cross_attention: CrossAttentionConfig,
    /// Rule that decides which text position attends to which media.
    pub media_attention: MediaAttentionConfig,
}

/// JSON form of a [`FlamingoConfig`]. The connector is the field that is present: `resampler`, `projector` or neither.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FlamingoJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resampler: Option<ResamplerConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    projector: Option<ProjectorConfig>,
    cross_attention: CrossAttentionConfig,
    #[serde(default, skip_serializing_if = "is_default")]
    media_attention: MediaAttentionConfig,
}

impl TryFrom<FlamingoJson> for FlamingoConfig {
    type Error = String;

    fn try_from(json: FlamingoJson) -> Result<Self, String> {
        let connector = match (json.resampler, json.projector) {
            (Some(resampler), None) => ConnectorConfig::Resampler(resampler),
            (None, Some(projector)) => ConnectorConfig::Projector(projector),
            (None, None) => ConnectorConfig::Identity,
            (Some(_), Some(_)) => return Err("both `resampler` and `projector` are present".into()),
        };
        let FlamingoJson { cross_attention, media_attention, .. } = json;
        Ok(Self { connector, cross_attention, media_attention })
    }
}

impl From<FlamingoConfig> for FlamingoJson {
    fn from(config: FlamingoConfig) -> Self {
        let (resampler, projector) = match config.connector {
            ConnectorConfig::Resampler(resampler) => (Some(resampler), None),
            ConnectorConfig::Projector(projector) => (None, Some(projector)),
            ConnectorConfig::Identity => (None, None),
        };
        let FlamingoConfig { cross_attention, media_attention, .. } = config;
        Self { resampler, projector, cross_attention, media_attention }
    }
}

/// Kind and sizes of the map from the features of a medium to its visual tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectorConfig {
    /// A Perceiver resampler: the paper, OpenFlamingo, IDEFICS.
    Resampler(ResamplerConfig),
    /// A linear projection of every feature: mllama.
    Projector(ProjectorConfig),
    /// None: the features of all frames are the visual tokens.
    Identity,
}

/// Sizes of a linear projection of features to visual tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width d of visual tokens.
    pub width: usize,
    /// Whether the projection has a bias.
    pub bias: bool,
}

/// Tells whether a field has its default, so that a description written by this build stays readable by older ones.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
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
    /// Frames for which a temporal embedding was learned. 0 for a model without one: each frame is resampled alone.
    pub frames: usize,
    /// Hidden width of the feed-forward, in multiples of `width`.
    pub feed_forward_multiple: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Normalisation of queries and keys over the width of one head, with the tensors `q_norm` and `k_norm`: IDEFICS.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: Option<NormKind>,
    /// Projections to keys and values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv_projection: KvProjectionKind,
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

impl ConnectorConfig {
    /// Returns the resampler, if the connector is one.
    pub fn resampler(&self) -> Option<&ResamplerConfig> {
        match self {
            Self::Resampler(resampler) => Some(resampler),
            Self::Projector(_) | Self::Identity => None,
        }
    }

    /// Returns (q, d) for a medium of `frames` frames with `patches` features of width `features_width` each: the number and
    /// the width of its visual tokens.
    pub fn visual_tokens(&self, frames: usize, patches: usize, features_width: usize) -> (usize, usize) {
        match self {
            Self::Resampler(resampler) if resampler.frames == 0 => {
                (frames * resampler.latents, resampler.width)
            }
            Self::Resampler(resampler) => (resampler.latents, resampler.width),
            Self::Projector(projector) => (frames * patches, projector.width),
            Self::Identity => (frames * patches, features_width),
        }
    }

    /// Returns the width d of visual tokens that are made of features of width `features_width`.
    pub fn width(&self, features_width: usize) -> usize {
        self.visual_tokens(1, 1, features_width).1
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Resampler(resampler) => check_sizes(&[
                ("resampler.width", resampler.width),
                ("resampler.depth", resampler.depth),
                ("resampler.heads", resampler.heads),
                ("resampler.head_width", resampler.head_width),
                ("resampler.latents", resampler.latents),
                ("resampler.feed_forward_multiple", resampler.feed_forward_multiple),
            ]),
            Self::Projector(projector) => check_sizes(&[("projector.width", projector.width)]),
            Self::Identity => Ok(()),
        }
    }
}

impl FlamingoConfig {
    /// Checks every size.
    ///
    /// # Errors
    /// The name and value of a size that is zero or absurdly large.
    pub fn check(&self) -> Result<(), String> {
        self.connector.check()?;
        self.cross_attention.check()?;
        self.media_attention.check()
    }
}

fn check_sizes(sizes: &[(&str, usize)]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 20) {
        Some((name, size)) => Err(format!("{name} is {size}")),
        None => Ok(()),
    }
}
