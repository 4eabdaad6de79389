//! Otter, image and video, and the OpenFlamingo models that its authors converted: directories of
//! `OtterForConditionalGeneration` and `FlamingoForConditionalGeneration` (github.com/Luodian/Otter, `src/otter_ai/models`).
//!
//! The parts are OpenFlamingo's under other names, with CLIP in Hugging Face's layout and the whole language model beside them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{LANGUAGE, content_sha256, directory_name, language_sha256, visual_sha256};
use super::clip::hugging_face_sizes;
use super::open_flamingo::{self, Layout, build};
use super::preprocessor::Preprocessor;
use super::{Contents, Family, FrameMode, LoadOptions, ModelParts, config_error};
use crate::error::{Error, Result};
use crate::generate::StopCriteria;
use crate::language::json::{optional, size};
use crate::language::{LanguageSource, Tokenizer};
use crate::model::FlamingoConfig;
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::clip_vit::ClassToken;
use crate::vision::{Fit, VisionConfig};
use crate::weights::{Layer, Weights};

/// The trained part of a model, which lies in the directory of Otter's video model besides the shards. It replaces their tensors.
const TRAINED: &str = "final_weights.pt";
/// Tokens that Otter adds to the tokenizer, in this order. A converted OpenFlamingo adds the first two.
const ADDED: [&str; 3] = [END_OF_CHUNK, IMAGE, ANSWER];
const END_OF_CHUNK: &str = "<|endofchunk|>";
const IMAGE: &str = "<image>";
const ANSWER: &str = "<answer>";

pub(super) const FAMILY: Family = Family {
    reads: "model type `otter` or `flamingo`",
    recognises: |contents| {
        contents.text("schema").is_none()
            && ["otter", "flamingo"].map(Some).contains(&contents.text("model_type"))
    },
    has_options: false,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let error = |reason: String| config_error(directory, reason);
    let json = &contents.config;
    let source = LanguageSource::part(directory, text_config(json))?;
    let shards = source.weight_files()?;
    let trained = directory.join(TRAINED);
    let trained: Vec<PathBuf> = trained.exists().then_some(trained).into_iter().collect();
    let layout = Layout::read(&[&trained[..], &shards[..]].concat(), &source)?;
    let source = source.with_vocabulary(layout.rows);
    let every = optional(json, "cross_attn_every_n_layers", size).map_err(error)?.unwrap_or(4);
    let model = layout.flamingo(every).map_err(error)?;
    check_frames(json, &model).map_err(error)?;
    let vision = vision(directory, json)?;
    let is_otter = contents.text("model_type") == Some("otter");
    let (tokenizer, tokens) = tokens(&source, layout.rows, is_otter)?;
    let rename = |theirs: &str| layout.rename(&source, theirs);
    let layers = [Layer { files: &trained, rename: &rename }, Layer { files: &shards, rename: &rename }];
    let weights = Weights::open_layers(&layers, &options.device, options.dtype, options.quantization)?;
    let weights = weights.by_headers(options.headers.as_ref());
    let flamingo = build(&vision, &model, &source, tokens.media[0], &weights)?;
    let sha256 = content_sha256(&weights)?;
    let mut parameters = weights.parameters();
    parameters.remove(LANGUAGE);
    Ok(ModelParts {
        name: directory_name(directory),
        family: "otter",
        visual_sha256: visual_sha256(&vision, &model, &sha256),
        language_sha256: language_sha256(&weights, options)?,
        sha256,
        parameters,
        flamingo,
        joint_space: None,
        preprocess: vision.preprocess().clone(),
        stop_criteria: StopCriteria {
            stop: std::iter::once(tokens.end_of_chunk).chain(tokenizer.eos().iter().copied()).collect(),
            suppressed: tokens.media.clone(),
        },
        tokenizer,
        tokens,
        format: if is_otter { format() } else { open_flamingo::format() },
        frame_mode: FrameMode::Joint,
    })
}

/// Returns `text_config`. The file of the first models has the kind of the language model only: absent sizes are those of
/// `LlamaConfig`.
fn text_config(json: &Value) -> Value {
    let mut text = json.get("text_config").cloned().unwrap_or(Value::Null);
    if text.get("model_type").and_then(Value::as_str) == Some("llama")
        && let Some(fields) = text.as_object_mut()
    {
        for (key, size) in [
            ("vocab_size", 32_000),
            ("hidden_size", 4096),
            ("intermediate_size", 11_008),
            ("num_hidden_layers", 32),
            ("num_attention_heads", 32),
        ] {
            fields.entry(key).or_insert(size.into());
        }
    }
    text
}

/// Refuses a model with another number of frame embeddings than `max_num_frames`.
fn check_frames(json: &Value, model: &FlamingoConfig) -> Result<(), String> {
    let embeddings = model.connector.resampler().map_or(0, |resampler| resampler.frames);
    match optional(json, "max_num_frames", size)?.unwrap_or(0) {
        same if same == embeddings => Ok(()),
        most => {
            Err(format!("`max_num_frames` is {most}, but the checkpoint has {embeddings} frame embeddings"))
        }
    }
}

/// Reads `vision_config`. Otter uses the image processor of CLIP with its default values.
fn vision(directory: &Path, json: &Value) -> Result<VisionConfig> {
    let error = |reason| config_error(directory, reason);
    let config = json.get("vision_config").unwrap_or(&Value::Null);
    let side = optional(config, "image_size", size).map_err(error)?.unwrap_or(224);
    let file = Preprocessor::read(directory)?;
    file.only_square("size", side)?;
    file.only_square("crop_size", side)?;
    let preprocess = file.preprocess(Fit::Crop, side)?;
    hugging_face_sizes(config, ClassToken::Dropped, preprocess).map(VisionConfig::Clip).map_err(error)
}

/// Adds the special tokens. A tokenizer that has them keeps its ids.
fn tokens(source: &LanguageSource, rows: usize, is_otter: bool) -> Result<(Tokenizer, PromptTokens)> {
    let added = if is_otter { &ADDED[..] } else { &ADDED[..2] };
    let tokenizer = source.tokenizer()?.add_special_tokens(added)?;
    let tokens = tokenizer.vocabulary();
    if tokens > rows {
        return Err(Error::Tokenizer(format!(
            "{tokens} tokens with those that Otter adds, but the embedding has {rows} rows"
        )));
    }
    let id = |token: &str| {
        tokenizer.token_id(token).ok_or_else(|| Error::Tokenizer(format!("`{token}` cannot be added")))
    };
    let tokens = PromptTokens {
        begin: tokenizer.template_begin(),
        media: vec![id(IMAGE)?],
        end_of_chunk: id(END_OF_CHUNK)?,
        answer: if is_otter { Some(id(ANSWER)?) } else { None },
    };
    Ok((tokenizer, tokens))
}

/// Returns the prompts of Otter's readme and of its evaluation.
fn format() -> PromptFormat {
    PromptFormat {
        caption: "<image>User: What does the image describe? GPT:<ANSWER>".into(),
        question: "<image>User: {question} GPT:<ANSWER>".into(),
        keywords: ["User:", "GPT:"].map(String::from).into(),
        question_with_text: None,
        ..PromptFormat::default()
    }
}
