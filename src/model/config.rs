//! Sizes and conventions in which the members of the family differ, as data.

use serde::{Deserialize, Serialize};

use crate::kernels::activation::Activation;

/// Configuration of the parts between the vision encoder and the language model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlamingoConfig {
    /// Sizes of the Perceiver resampler.
    pub resampler: ResamplerConfig,
    /// Sizes and places of the gated cross-attentions.
    pub cross_attention: CrossAttentionConfig,
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

impl Placement {
    /// Tells whether a gated cross-attention precedes `layer`.
    pub fn has(&self, layer: usize) -> bool {
        layer >= self.first && (layer - self.first).is_multiple_of(self.every.max(1))
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
        ] {
            if size == 0 || size > 1 << 20 {
                return Err(format!("{name} is {size}"));
            }
        }
        Ok(())
    }
}
