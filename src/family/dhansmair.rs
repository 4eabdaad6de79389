//! flamingo-mini and flamingo-tiny of dhansmair (github.com/dhansmair/flamingo-mini, commit 8a8feae), over OPT.
//!
//! A release is a directory with `config.json` and `pytorch_model.bin`. Our directory names it, and the language model and the
//! CLIP of which it holds the weights but not the sizes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::checkpoint::{LANGUAGE, content_sha256, language_sha256, visual_sha256};
use super::clip::ClipSource;
use super::open_flamingo::{build, feed_forward_name};
use super::{Contents, Family, FrameMode, LoadOptions, ModelParts, config_error, read_config};
use crate::error::Result;
use crate::generate::StopCriteria;
use crate::kernels::activation::Activation;
use crate::language::LanguageSource;
use crate::language::hugging_face::ModelDirectory;
use crate::language::json::{size, text};
use crate::model::{
    ConnectorConfig, CrossAttentionConfig, FlamingoConfig, KvProjectionKind, MediaAttentionConfig, Placement,
    ResamplerConfig,
};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::VisionConfig;
use crate::vision::clip_vit::{ClassToken, file_name, hugging_face_name};
use crate::weights::{Layer, Rename, Weights};

/// Version of the description; other versions are refused.
const SCHEMA: &str = "dhansmair/1";
/// Token that ends a caption. It is added to the tokenizer.
const END_OF_CHUNK: &str = "<EOC>";
/// Text that marks an image. Its first token is the place of the image.
const IMAGE: &str = "<image>";

/// `config.json` of our directory. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DhansmairConfig {
    #[allow(dead_code)]
    schema: String,
    /// Name of the model.
    name: String,
    /// Directory of the release.
    checkpoint: PathBuf,
    /// Directory of the language model.
    language: PathBuf,
    /// Directory or weight file of the CLIP.
    vision: PathBuf,
}

pub(super) const FAMILY: Family = Family {
    reads: "schema `dhansmair/1`",
    recognises: |contents| contents.text("schema") == Some(SCHEMA),
    has_options: false,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let error = |reason: String| config_error(directory, reason);
    let config: DhansmairConfig =
        serde_json::from_value(contents.config).map_err(|e| error(e.to_string()))?;
    let release = directory.join(&config.checkpoint);
    let model = sizes(&read_config(&release)?).map_err(|reason| config_error(&release, reason))?;
    let source = LanguageSource::open(&directory.join(&config.language))?;
    // Its vocabulary has one row more: that of the end of a chunk.
    let rows = source.config().sizes().vocabulary + 1;
    let source = source.with_vocabulary(rows);
    let clip = ClipSource::open(&directory.join(&config.vision), ClassToken::Kept)?;
    let tokenizer = source.tokenizer()?.add_special_tokens(&[END_OF_CHUNK])?;
    let missing = |token: &str| error(format!("the tokenizer has no token `{token}`"));
    let end_of_chunk = tokenizer.token_id(END_OF_CHUNK).ok_or_else(|| missing(END_OF_CHUNK))?;
    let media = tokenizer.encode_plain(IMAGE)?;
    let place = media.first().copied().ok_or_else(|| missing(IMAGE))?;

    let files = ModelDirectory::open(&release)?.weight_files()?;
    let layers = [
        Layer { files: &files, rename: &|theirs| rename(&source, theirs) },
        // `state_dict_trainable` leaves out both frozen models.
        Layer { files: &source.weight_files()?, rename: &|theirs| source.rename(theirs).below(LANGUAGE) },
        Layer { files: &clip.files, rename: &|theirs| file_name(theirs).below("vision") },
    ];
    let weights = Weights::open_layers(&layers, &options.device, options.dtype, options.quantization)?;
    let weights = weights.by_headers(options.headers.as_ref());
    let vision = VisionConfig::Clip(clip.config);
    let flamingo = build(&vision, &model, &source, place, &weights)?;
    let sha256 = content_sha256(&weights)?;
    let mut parameters = weights.parameters();
    parameters.remove(LANGUAGE);
    Ok(ModelParts {
        name: config.name,
        family: "dhansmair",
        visual_sha256: visual_sha256(&vision, &model, &sha256),
        language_sha256: language_sha256(&weights, options)?,
        sha256,
        parameters,
        flamingo,
        joint_space: None,
        preprocess: vision.preprocess().clone(),
        stop_criteria: StopCriteria {
            stop: std::iter::once(end_of_chunk).chain(tokenizer.eos().iter().copied()).collect(),
            suppressed: vec![place],
        },
        tokens: PromptTokens { begin: tokenizer.bos(), media, end_of_chunk, answer: None },
        tokenizer,
        // The releases were trained on captions only.
        format: PromptFormat {
            caption: IMAGE.into(),
            before_answer: String::new(),
            ..PromptFormat::default()
        },
        frame_mode: FrameMode::Joint,
    })
}

/// Reads the sizes of the trained parts.
fn sizes(json: &Value) -> Result<FlamingoConfig, String> {
    let activation = |key: &str| match text(json, key)?.as_str() {
        "gelu" => Ok(Activation::Gelu),
        "sqrelu" => Ok(Activation::SquaredRelu),
        "relu" => Ok(Activation::Relu),
        other => Err(format!("unknown `{key}` `{other}`")),
    };
    let resampler = ResamplerConfig {
        width: size(json, "dim_visual")?,
        depth: size(json, "resampler_depth")?,
        heads: size(json, "resampler_heads")?,
        head_width: size(json, "resampler_dim_head")?,
        latents: size(json, "resampler_num_latents")?,
        frames: size(json, "resampler_num_time_embeds")?,
        feed_forward_multiple: size(json, "resampler_ff_mult")?,
        activation: activation("resampler_act")?,
        qk_norm: None,
        kv_projection: KvProjectionKind::Separate,
    };
    let cross_attention = CrossAttentionConfig::new(
        Placement { every: size(json, "xattn_every")?, first: 0 },
        size(json, "xattn_heads")?,
        size(json, "xattn_dim_head")?,
        size(json, "xattn_ff_mult")?,
        activation("xattn_act")?,
    );
    let config = FlamingoConfig {
        connector: ConnectorConfig::Resampler(resampler),
        cross_attention,
        media_attention: MediaAttentionConfig::default(),
    };
    config.check()?;
    Ok(config)
}

/// Maps a name of the release to ours. Unknown names stay, so that the load names them.
fn rename(source: &LanguageSource, theirs: &str) -> Rename {
    let name = theirs.strip_prefix("flamingo.").unwrap_or(theirs);
    if let Some(name) = name.strip_prefix("vision_encoder.vision_model.") {
        return hugging_face_name(name).below("vision");
    }
    if name == "resampler.time_pos_emb" {
        return Rename::Matrix("resampler.temporal_embedding".into());
    }
    if let Some((index, name)) = name.strip_prefix("resampler.layers.").and_then(|rest| rest.split_once('.'))
    {
        let name = match name.split_once('.') {
            Some(("0", name)) => format!("attention.{name}"),
            Some(("1", name)) => format!("feed_forward.{}", feed_forward_name(name)),
            _ => name.into(),
        };
        return Rename::To(format!("resampler.layers.{index}.{name}"));
    }
    if let Some((layer, name)) = name.split_once(".xattn_block.") {
        let index = layer.rsplit_once('.').map_or(layer, |(_, index)| index);
        return Rename::To(format!("cross_attention.{index}.{}", cross_attention_name(name)));
    }
    match name.strip_prefix("lm.") {
        Some(name) => {
            source.rename(&format!("model.{}", name.replacen(".lm_block.", ".", 1))).below(LANGUAGE)
        }
        None if name == "lm_head.weight" => source.rename(name).below(LANGUAGE),
        None => Rename::To(name.into()),
    }
}

fn cross_attention_name(theirs: &str) -> String {
    match (theirs, theirs.strip_prefix("attn."), theirs.strip_prefix("ffw.")) {
        ("alpha_attn", ..) => "attention_gate".into(),
        ("alpha_ffw", ..) => "feed_forward_gate".into(),
        (_, Some(name), _) => format!("attention.{name}"),
        (_, _, Some(name)) => format!("feed_forward.{}", feed_forward_name(name)),
        _ => theirs.into(),
    }
}
