//! The sizes and conventions in which the members of the family differ: data, used where they matter.

use serde::{Deserialize, Serialize};

use crate::kernels::activation::Activation;

/// The parts between the vision encoder and the language model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlamingoConfig {
    pub resampler: ResamplerConfig,
    pub cross_attention: CrossAttentionConfig,
}

/// The Perceiver resampler (paper section 3.1.1; table 4 of its second version: depth 6, width 1536, 16 heads of 96,
/// 64 latents, squared ReLU, feed-forward 4 times the width).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ResamplerConfig {
    /// Width d of latents and visual tokens. Features of another width are projected first.
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub head_width: usize,
    /// Visual tokens q per medium.
    pub latents: usize,
    /// Frames for which a temporal embedding was learned; 0 for a model without one.
    pub frames: usize,
    pub feed_forward_multiple: usize,
    pub activation: Activation,
}

/// The space that pictures, videos and texts share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JointSpaceConfig {
    pub width: usize,
    /// Width of the text tower's pooled states.
    pub text_width: usize,
}

/// GATED XATTN-DENSE (paper section 3.1.2).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrossAttentionConfig {
    pub placement: Placement,
    pub heads: usize,
    pub head_width: usize,
    pub feed_forward_multiple: usize,
    pub activation: Activation,
}

/// Before which layers of the language model a gated cross-attention stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    pub every: usize,
    /// The first of them: 0 in the paper and IDEFICS, `every - 1` in OpenFlamingo and Otter.
    pub first: usize,
}

impl Placement {
    pub fn has(&self, layer: usize) -> bool {
        layer >= self.first && (layer - self.first).is_multiple_of(self.every.max(1))
    }
}

impl FlamingoConfig {
    /// What contradicts itself, in words.
    ///
    /// # Errors
    /// A size that is zero.
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
