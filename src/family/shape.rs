//! Sizes of a whole Flamingo without its weights; its speed depends on nothing else.

use std::path::Path;

use super::native::NativeConfig;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::language::llama::{LlamaConfig, Rope, RopeScaling, RopeStyle};
use crate::language::{self, LanguageConfig, LanguageSource};
use crate::model::{
    ConnectorConfig, CrossAttentionConfig, Flamingo, FlamingoConfig, KvProjectionKind, MediaAttentionConfig,
    MediaAttentionRule, Placement, ResamplerConfig,
};
use crate::vision::{self, Fit, Preprocess, VisionConfig, nfnet};
use crate::weights::Weights;

/// Sizes of vision encoder, resampler, gated cross-attention and language model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// Name of the model or of the shape.
    pub name: String,
    /// Vision encoder and preprocessing.
    pub vision: VisionConfig,
    /// Resampler and cross-attention.
    pub model: FlamingoConfig,
    /// Language model.
    pub language: LanguageConfig,
}

/// Token that marks a medium in a model without a tokenizer.
pub const MEDIA_TOKEN: u32 = 0;

/// A language model of the paper (table 4 of its second version): layers, width, heads of 128, feed-forward width.
///
/// The paper's layers are Chinchilla's: relative positions and a feed-forward of two matrices. Ours are Llama's, rotary
/// and with a gated feed-forward of three, as wide as gives the whole the number of parameters that the paper states:
/// 1.4, 7.1 and 70 billion. The embedding has 32,000 rows and is the head too.
struct Chinchilla {
    layers: usize,
    width: usize,
    ffn_width: usize,
    /// Distance of gated cross-attentions in layers; the first precedes the first layer.
    every: usize,
}

impl ModelShape {
    /// Names that [`named`](Self::named) accepts.
    pub const NAMES: [&str; 4] = ["mini", "3b", "9b", "80b-layer"];

    /// Returns a shape by name. `mini` is flamingo-mini, dense; `3b` and `9b` are the paper's; `80b-layer` is the first
    /// layer of the paper's largest model with the gated cross-attention before it.
    pub fn named(name: &str) -> Option<Self> {
        let paper = match name {
            "mini" => return Some(Self::mini()),
            "3b" => Chinchilla { layers: 24, width: 2048, ffn_width: 49 * 128, every: 1 },
            "9b" => Chinchilla { layers: 40, width: 4096, ffn_width: 68 * 128, every: 4 },
            "80b-layer" => Chinchilla { layers: 1, width: 8192, ffn_width: 192 * 128, every: 7 },
            _ => return None,
        };
        Some(paper.shape(name))
    }

    /// Reads the shape of a model directory from its descriptions, without weights.
    ///
    /// # Errors
    /// As [`family::open`](super::open) for the descriptions.
    pub fn of(directory: &Path) -> Result<Self> {
        let config = NativeConfig::read(directory)?;
        let language = LanguageSource::open(&directory.join(&config.language.file))?.config().clone();
        Ok(Self { name: config.name, vision: config.vision, model: config.model, language })
    }

    fn mini() -> Self {
        let NativeConfig { vision, model, .. } = NativeConfig::mini("mini", Default::default());
        let language = LlamaConfig {
            vocabulary: 49_152,
            extra_embeddings: 0,
            width: 576,
            ffn_width: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_width: 64,
            max_positions: 8192,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e5, style: RopeStyle::Interleaved, scaling: RopeScaling::None },
            tied: true,
            qkv_bias: false,
        };
        Self { name: "mini".into(), vision, model, language: LanguageConfig::Llama(language) }
    }

    /// Builds a model of this shape. [`MEDIA_TOKEN`] marks its media.
    ///
    /// # Errors
    /// The device refuses an operation, or `weights` lack a tensor.
    pub fn build(&self, weights: &Weights) -> Result<Flamingo> {
        let vision = vision::build(&self.vision, &weights.pp("vision"))?;
        let language = language::build(&self.language, &weights.pp("language"))?;
        let rule = MediaAttentionRule::last_medium(MEDIA_TOKEN);
        Flamingo::new(&self.model, vision, language, rule, weights)
    }
}

impl Chinchilla {
    fn shape(self, name: &str) -> ModelShape {
        let heads = self.width / 128;
        let placement = Placement { every: self.every, first: 0 };
        let cross_attention = CrossAttentionConfig::new(placement, heads, 128, 4, Activation::SquaredRelu);
        let language = LlamaConfig {
            vocabulary: 32_000,
            extra_embeddings: 0,
            width: self.width,
            ffn_width: self.ffn_width,
            layers: self.layers,
            heads,
            kv_heads: heads,
            head_width: 128,
            max_positions: 2048,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e4, style: RopeStyle::HalfSplit, scaling: RopeScaling::None },
            tied: true,
            qkv_bias: false,
        };
        let media_attention = MediaAttentionConfig::default();
        let connector = ConnectorConfig::Resampler(paper_resampler());
        let model = FlamingoConfig { connector, cross_attention, media_attention };
        let language = LanguageConfig::Llama(language);
        ModelShape { name: name.into(), vision: paper_vision(), model, language }
    }
}

/// NFNet-F6 at 320 pixels, with its final convolution: so it has the 435 million parameters of the paper.
fn paper_vision() -> VisionConfig {
    let preprocess =
        Preprocess { fit: Fit::Pad, size: 320, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    VisionConfig::Nfnet(nfnet::Config {
        variant: nfnet::Variant::F6,
        features: nfnet::Features::FinalConv,
        preprocess,
    })
}

/// Resampler with heads of 128, as in the paper's first version. With the projection of 3072 features to 1536 it has the
/// 194 million parameters of the paper; with the heads of 96 of the second version it has not.
fn paper_resampler() -> ResamplerConfig {
    ResamplerConfig {
        width: 1536,
        depth: 6,
        heads: 16,
        head_width: 128,
        latents: 64,
        frames: 8,
        feed_forward_multiple: 4,
        activation: Activation::SquaredRelu,
        qk_norm: None,
        kv_projection: KvProjectionKind::Fused,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn every_named_shape_is_consistent() {
        for name in ModelShape::NAMES {
            let shape = ModelShape::named(name).expect(name);
            assert_eq!(shape.name, name);
            shape.model.check().unwrap();
            shape.language.check().unwrap();
        }
        assert_eq!(ModelShape::named("80b"), None);
    }

    #[test]
    fn mini_has_sizes_of_shipped_language_model() {
        let shape = ModelShape::named("mini").unwrap();
        let weights = Weights::placeholder(&Device::Cpu, DType::F32).unwrap();
        let model = shape.build(&weights).unwrap();
        assert_eq!(weights.parameters()["language"], 134_515_008, "SmolLM2-135M");
        assert_eq!(model.cross_attention_layers(), [15, 18, 21, 24, 27]);
    }
}
