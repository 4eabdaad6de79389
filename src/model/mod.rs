//! Flamingo itself: visual features -> visual tokens -> a language model with gated cross-attention to them.

pub mod config;
mod feed_forward;
mod kv_projection;
pub mod resampler;
pub mod connector;
pub mod joint_space;
pub mod media_attention;
pub mod cross_attention;
mod medium_pixels;
pub mod flamingo;

pub use config::{
    ConnectorConfig, CrossAttentionConfig, FlamingoConfig, JointSpaceConfig, KvProjectionKind, LayerStep,
    MediaAttentionConfig, Placement, ProjectorConfig, ResamplerConfig,
};
pub use connector::Connector;
pub use cross_attention::GatedCrossAttention;
pub use flamingo::{
    CrossAttentionLayer, EncodedMedium, Flamingo, FlamingoParts, Observe, Observer, RowInput, RowState,
    WithHeads, WorkCounts,
};
pub use joint_space::{JointSpace, JointSpaces};
pub use media_attention::{BatchedMediaKv, MediaAttentionRule, MediaKv};
pub use medium_pixels::MediumPixels;
pub use resampler::PerceiverResampler;

#[cfg(test)]
mod tests;
