//! Flamingo itself: visual features -> visual tokens -> a language model with gated cross-attention to them.

pub mod config;
pub mod resampler;
pub mod joint_space;
pub mod media;
pub mod cross_attention;
pub mod flamingo;

pub use config::{CrossAttentionConfig, FlamingoConfig, JointSpaceConfig, Placement, ResamplerConfig};
pub use cross_attention::GatedCrossAttention;
pub use flamingo::{Flamingo, Observer, RowInput, RowState};
pub use joint_space::{JointSpace, JointSpaces};
pub use media::{BatchedMediaKv, MediaKv, MediaRule};
pub use resampler::PerceiverResampler;

#[cfg(test)]
mod tests;
