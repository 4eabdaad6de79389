//! Llama 3.2 Vision (`model_type` `mllama`): a vision encoder over tiles, a linear projection, and a Llama 3.1 with gated
//! cross-attentions as layers of their own.
//!
//! Reference: `models/mllama` of transformers 4.49.0, and `llama_models/llama3/multimodal` for Meta's row mask.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat_template::ChatTemplate;
use super::checkpoint::{Checkpoint, language_sha256};
use super::{Contents, Family, LoadOptions, ModelParts, config_error, read_config};
use crate::digest;
use crate::error::Result;
use crate::generate::StopCriteria;
use crate::kernels::activation::Activation;
use crate::kernels::norm::NormKind;
use crate::language::Tokenizer;
use crate::language::llama::Llama;
use crate::model::config::{FeedForwardKind, KvProjectionKind, MediaAttention, VisibleMedia, WithoutMedia};
use crate::model::{
    Connector, ConnectorConfig, CrossAttentionConfig, CrossAttentionLayer, FlamingoParts,
    GatedCrossAttention, LayerStep, MediaAttentionConfig, MediaAttentionRule, Placement, ProjectorConfig,
};
use crate::vision::VisionEncoder;
use crate::vision::mllama::Tower;
use crate::weights::Weights;

mod config;
mod names;
mod prompt;

use config::MllamaConfig;

/// Treatment of the tokens of a prompt before its first image. Meta's code and transformers differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowMask {
    /// Meta's: neither attention nor feed-forward of a cross-attention layer changes them.
    #[default]
    Meta,
    /// Hugging Face's: they attend to all images of the prompt, empty tiles included; the feed-forward does not change them.
    Hf,
}

impl RowMask {
    fn rule(self, media_token: u32) -> MediaAttentionRule {
        let attention = match self {
            Self::Meta => MediaAttention::Zero,
            Self::Hf => MediaAttention::Unmasked,
        };
        let without_media = WithoutMedia { attention, mlp: false };
        let config = MediaAttentionConfig { visible: VisibleMedia::AdjacentGroup, without_media };
        MediaAttentionRule { media_token, forget_token: None, config }
    }
}

pub(super) const FAMILY: Family = Family {
    reads: "model type `mllama`",
    recognises: |contents| contents.text("schema").is_none() && contents.text("model_type") == Some("mllama"),
    has_options: true,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let config = MllamaConfig::read(directory, &contents.config)?;
    let tokenizer = tokenizer(directory, &config)?;
    let prompt = prompt::read(directory, &config, &tokenizer)?;
    let checkpoint = Checkpoint::open(directory, options, &|name| names::rename(&config.cross_layers, name))?;
    let row_mask = options.family.row_mask.unwrap_or(config.row_mask);
    let flamingo = assemble(&config, row_mask, &checkpoint.weights)?;
    checkpoint.weights.finish()?;
    let sha256 = checkpoint.sha256()?;
    let frame_mode = options.family.frame_mode.unwrap_or(config.frame_mode);
    // The row mask `hf` keeps the tokens of empty tiles, and the frame mode decides which pictures are encoded.
    let visual = json!([
        contents.config.get("vision_config"),
        row_mask,
        frame_mode,
        config.preprocess,
        sha256.get("visual")
    ]);
    Ok(ModelParts {
        name: checkpoint.name(),
        family: "mllama",
        visual_sha256: digest::sha256(visual.to_string().as_bytes()),
        language_sha256: language_sha256(&checkpoint.weights, options)?,
        sha256,
        flamingo,
        parameters: checkpoint.parameters(),
        joint_space: None,
        tokenizer,
        preprocess: config.preprocess,
        tokens: prompt.tokens,
        stop_criteria: StopCriteria { stop: prompt.stop, suppressed: Vec::new() },
        frame_mode,
        format: prompt.format,
    })
}

/// Returns the chat template of a model directory, for prompts of several messages; `None` for a base model.
///
/// # Errors
/// As the load of the directory, for its descriptions.
pub fn chat_template(directory: &Path) -> Result<Option<ChatTemplate>> {
    let config = MllamaConfig::read(directory, &read_config(directory)?)?;
    let tokenizer = tokenizer(directory, &config)?;
    prompt::chat(directory, &config, &tokenizer)
}

fn tokenizer(directory: &Path, config: &MllamaConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_json(&directory.join("tokenizer.json"))?;
    let rows = config.language.vocabulary + config.language.extra_embeddings;
    if tokenizer.vocabulary() > rows {
        let tokens = tokenizer.vocabulary();
        return Err(config_error(
            directory,
            format!("the tokenizer has {tokens} tokens, the embedding only {rows}"),
        ));
    }
    match tokenizer.token_id(names::IMAGE) {
        Some(id) if id == config.image_token => Ok(tokenizer),
        found => Err(config_error(
            directory,
            format!(
                "`image_token_index` is {}, but `{}` is {found:?} in tokenizer.json",
                config.image_token,
                names::IMAGE
            ),
        )),
    }
}

/// Builds the model from `weights`; the caller finishes the weights.
fn assemble(config: &MllamaConfig, row_mask: RowMask, weights: &Weights) -> Result<FlamingoParts> {
    let vision = Tower::new(config.tower.clone(), &weights.as_stored().pp("vision"))?;
    let width = config.language.width;
    let projector = ConnectorConfig::Projector(ProjectorConfig { width, bias: true });
    let connector = Connector::new(&projector, vision.width(), weights)?;
    let language = Llama::new(config.language.clone(), &weights.pp("language"))?;
    let block_config = cross_attention(config);
    let layer = |&number: &usize| {
        let weights = weights.pp("cross_attention").pp(number);
        Ok(CrossAttentionLayer {
            number,
            block: GatedCrossAttention::new(&block_config, width, width, weights)?,
        })
    };
    Ok(FlamingoParts {
        vision: Box::new(vision),
        connector,
        language: Box::new(language),
        cross_attention: config.cross_layers.iter().map(layer).collect::<Result<_>>()?,
        plan: plan(config),
        rule: row_mask.rule(config.image_token),
    })
}

/// Returns the layer plan: the layers of `cross_attention_layers` are gated cross-attentions, the others are Llama's.
fn plan(config: &MllamaConfig) -> Vec<LayerStep> {
    let (mut language, mut cross) = (0.., 0..);
    let step = |layer| match config.cross_layers.contains(&layer) {
        true => cross.next().map(LayerStep::CrossAttention),
        false => language.next().map(LayerStep::Language),
    };
    (0..config.language.layers + config.cross_layers.len()).filter_map(step).collect()
}

fn cross_attention(config: &MllamaConfig) -> CrossAttentionConfig {
    let language = &config.language;
    let placement = Placement { every: 1, first: 0 };
    CrossAttentionConfig {
        kv_heads: Some(language.kv_heads),
        feed_forward_width: Some(language.ffn_width),
        feed_forward: FeedForwardKind::Gated,
        norm: NormKind::RmsNorm,
        norm_eps: language.norm_eps,
        qk_norm: Some(NormKind::RmsNorm),
        kv_projection: KvProjectionKind::Separate,
        ..CrossAttentionConfig::new(placement, language.heads, language.head_width, 1, Activation::Silu)
    }
}
