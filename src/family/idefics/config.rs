//! `config.json` and `preprocessor_config.json` of IDEFICS. A key that is absent has the default of transformers'
//! `IdeficsConfig`, because `save_pretrained` writes only the others.

use std::path::Path;

use serde_json::Value;

use crate::error::Result;
use crate::family::preprocessor::Preprocessor;
use crate::kernels::activation::Activation;
use crate::kernels::norm::NormKind;
use crate::language::LanguageConfig;
use crate::language::json::{flag, number, optional, size, text};
use crate::language::llama::{LlamaConfig, Rope, RopeScaling, RopeStyle};
use crate::model::config::{FeedForwardKind, GateShape};
use crate::model::{
    ConnectorConfig, CrossAttentionConfig, FlamingoConfig, KvProjectionKind, MediaAttentionConfig, Placement,
    ResamplerConfig,
};
use crate::vision::clip_vit::{self, ClassToken};
use crate::vision::{Fit, Preprocess};

/// Positions for which `IdeficsEmbedding` is built.
const POSITIONS: usize = 2048;

/// Sizes and kinds of an IDEFICS.
pub(super) struct IdeficsConfig {
    pub language: LanguageConfig,
    /// Rows of the embedding, added tokens included.
    pub rows: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Distance of gated cross-attentions in layers; the first precedes the first layer.
    pub every: usize,
    cross_attention: CrossAttentionConfig,
    resampler: Option<ResamplerConfig>,
    vision: Vision,
}

/// `vision_config`.
struct Vision {
    width: usize,
    layers: usize,
    heads: usize,
    patch: usize,
    feed_forward_width: usize,
    activation: Activation,
    norm_eps: f64,
    image_size: usize,
}

fn size_or(json: &Value, key: &str, default: usize) -> Result<usize, String> {
    Ok(optional(json, key, size)?.unwrap_or(default))
}

fn flag_or(json: &Value, key: &str, default: bool) -> Result<bool, String> {
    Ok(optional(json, key, flag)?.unwrap_or(default))
}

fn number_or(json: &Value, key: &str, default: f64) -> Result<f64, String> {
    Ok(optional(json, key, number)?.unwrap_or(default))
}

impl IdeficsConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The reason why this build cannot run the model.
    pub fn read(json: &Value) -> Result<Self, String> {
        let vision = Vision::read(json.get("vision_config").unwrap_or(&Value::Null))?;
        let language = llama(json)?;
        language.check()?;
        let every = size_or(json, "cross_layer_interval", 1)?;
        if every == 0 || !language.layers.is_multiple_of(every) {
            let layers = language.layers;
            return Err(format!("`cross_layer_interval` {every} does not divide the {layers} layers"));
        }
        let config = Self {
            rows: language.vocabulary,
            tied: language.tied,
            every,
            cross_attention: cross_attention(json, &language, every)?,
            resampler: resampler(json, vision.width)?,
            language: LanguageConfig::Llama(language),
            vision,
        };
        config.flamingo().check()?;
        Ok(config)
    }

    /// Returns the vision encoder.
    pub fn vision(&self, preprocess: Preprocess) -> clip_vit::Config {
        let vision = &self.vision;
        clip_vit::Config {
            width: vision.width,
            layers: vision.layers,
            heads: vision.heads,
            patch: vision.patch,
            feed_forward_width: vision.feed_forward_width,
            activation: vision.activation,
            norm_eps: vision.norm_eps,
            class_token: ClassToken::Kept,
            preprocess,
        }
    }

    /// Returns the parts between vision encoder and language model.
    pub fn flamingo(&self) -> FlamingoConfig {
        FlamingoConfig {
            connector: match &self.resampler {
                Some(resampler) => ConnectorConfig::Resampler(resampler.clone()),
                None => ConnectorConfig::Identity,
            },
            cross_attention: self.cross_attention.clone(),
            media_attention: MediaAttentionConfig::default(),
        }
    }

    /// Reads `preprocessor_config.json`: images are resized to a square without keeping the aspect ratio.
    ///
    /// # Errors
    /// The file is malformed or contradicts `config.json`.
    pub fn preprocess(&self, directory: &Path) -> Result<Preprocess> {
        let file = Preprocessor::read(directory)?;
        file.only_size(&["image_size"], self.vision.image_size)?;
        file.only_size(&["image_num_channels"], 3)?;
        file.preprocess(Fit::Squash { crop: 1.0 }, self.vision.image_size)
    }
}

fn llama(json: &Value) -> Result<LlamaConfig, String> {
    let (width, heads) = (size_or(json, "hidden_size", 4096)?, size_or(json, "num_attention_heads", 32)?);
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("`num_attention_heads` {heads} does not divide `hidden_size` {width}"));
    }
    match optional(json, "hidden_act", text)?.as_deref() {
        None | Some("silu") => {}
        Some(other) => return Err(format!("unknown `hidden_act` `{other}`")),
    }
    let added = size_or(json, "additional_vocab_size", 0)?;
    Ok(LlamaConfig {
        extra_embeddings: 0,
        vocabulary: size_or(json, "vocab_size", 32_000)?.saturating_add(added),
        width,
        ffn_width: size_or(json, "intermediate_size", 11_008)?,
        layers: size_or(json, "num_hidden_layers", 32)?,
        heads,
        kv_heads: heads,
        head_width: width / heads,
        max_positions: size_or(json, "max_position_embeddings", POSITIONS)?,
        norm_eps: number_or(json, "rms_norm_eps", 1e-6)?,
        rope: Rope { theta: 1e4, style: RopeStyle::HalfSplit, scaling: RopeScaling::None },
        tied: flag_or(json, "tie_word_embeddings", false)?,
        qkv_bias: false,
    })
}

fn cross_attention(json: &Value, llama: &LlamaConfig, every: usize) -> Result<CrossAttentionConfig, String> {
    let gate = match optional(json, "alpha_type", text)?.as_deref() {
        None | Some("float") => GateShape::Scalar,
        Some("vector") => GateShape::PerChannel,
        Some(other) => return Err(format!("unknown `alpha_type` `{other}`")),
    };
    let placement = Placement { every, first: 0 };
    let paper = CrossAttentionConfig::new(placement, llama.heads, llama.head_width, 1, Activation::Silu);
    Ok(CrossAttentionConfig {
        feed_forward_width: Some(llama.ffn_width),
        feed_forward: FeedForwardKind::Gated,
        norm: NormKind::RmsNorm,
        norm_eps: llama.norm_eps,
        qk_norm: flag_or(json, "qk_layer_norms", false)?.then_some(NormKind::RmsNorm),
        gate,
        kv_projection: KvProjectionKind::Separate,
        ..paper
    })
}

/// Reads `perceiver_config`. Its own `use_resampler` has no effect in transformers: the one of the whole model decides.
fn resampler(json: &Value, width: usize) -> Result<Option<ResamplerConfig>, String> {
    if !flag_or(json, "use_resampler", false)? {
        return Ok(None);
    }
    let perceiver = json.get("perceiver_config").unwrap_or(&Value::Null);
    Ok(Some(ResamplerConfig {
        width,
        depth: size_or(perceiver, "resampler_depth", 6)?,
        heads: size_or(perceiver, "resampler_n_heads", 16)?,
        head_width: size_or(perceiver, "resampler_head_dim", 96)?,
        latents: size_or(perceiver, "resampler_n_latents", 64)?,
        frames: 0,
        feed_forward_multiple: 4,
        activation: Activation::Relu,
        qk_norm: flag_or(perceiver, "qk_layer_norms_perceiver", false)?.then_some(NormKind::LayerNorm),
        kv_projection: KvProjectionKind::Separate,
    }))
}

impl Vision {
    fn read(json: &Value) -> Result<Self, String> {
        // The authors' files say `embed_dim`, the attribute of transformers `hidden_size`.
        let widths = [optional(json, "embed_dim", size)?, optional(json, "hidden_size", size)?];
        let width = match widths {
            [Some(a), Some(b)] if a != b => {
                return Err(format!("`embed_dim` is {a}, but `hidden_size` is {b}"));
            }
            [a, b] => a.or(b).unwrap_or(768),
        };
        let channels = size_or(json, "num_channels", 3)?;
        if channels != 3 {
            return Err(format!("`num_channels` is {channels}, not 3"));
        }
        let activation = match optional(json, "hidden_act", text)?.as_deref() {
            None | Some("gelu") => Activation::Gelu,
            Some("quick_gelu") => Activation::QuickGelu,
            Some("relu") => Activation::Relu,
            Some(other) => return Err(format!("unknown `hidden_act` `{other}` of the vision encoder")),
        };
        Ok(Self {
            width,
            layers: size_or(json, "num_hidden_layers", 32)?,
            heads: size_or(json, "num_attention_heads", 16)?,
            patch: size_or(json, "patch_size", 14)?,
            feed_forward_width: size_or(json, "intermediate_size", 5120)?,
            activation,
            norm_eps: number_or(json, "layer_norm_eps", 1e-5)?,
            image_size: size_or(json, "image_size", 224)?,
        })
    }
}
