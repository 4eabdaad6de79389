//! OpenFlamingo (open_flamingo 2.0.1): 3B, 4B and 9B, the first 9B, and Med-Flamingo, which has the same layout.
//!
//! A release is `checkpoint.pt` alone. Our directory names it, the language model and the vision encoder that it was trained on.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::checkpoint::{LANGUAGE, content_sha256, language_sha256, visual_sha256};
use super::clip::ClipSource;
use super::{Contents, Family, FrameMode, LoadOptions, ModelParts, config_error};
use crate::error::{Error, Result};
use crate::generate::StopCriteria;
use crate::language::{self, LanguageSource, Tokenizer};
use crate::model::{FlamingoConfig, FlamingoParts, MediaAttentionRule};
use crate::prompt::{DialogueFormat, PromptFormat, PromptTokens};
use crate::vision::clip_vit::{self, ClassToken};
use crate::vision::{self, VisionConfig};
use crate::weights::{Layer, Rename, Weights};

mod layout;

pub(super) use layout::{Layout, feed_forward_name};

/// Version of the description; other versions are refused.
const SCHEMA: &str = "open_flamingo/1";
/// Tokens that open_flamingo adds to the tokenizer, in this order. The last one pads batches; a tokenizer with a padding token
/// does not get it.
const END_OF_CHUNK: &str = "<|endofchunk|>";
const IMAGE: &str = "<image>";
const PAD: &str = "<PAD>";

/// `config.json` of a directory. Paths are relative to the directory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenFlamingoConfig {
    #[allow(dead_code)]
    schema: String,
    /// Name of the model.
    name: String,
    /// The trained parts, as open_flamingo saves them.
    checkpoint: PathBuf,
    /// Directory of the language model.
    language: PathBuf,
    /// Directory or weight file of the CLIP.
    vision: PathBuf,
    /// Distance between two gated cross-attentions, in layers of the language model.
    cross_attn_every_n_layers: usize,
}

pub(super) const FAMILY: Family = Family {
    reads: "schema `open_flamingo/1`",
    recognises: |contents| contents.text("schema") == Some(SCHEMA),
    has_options: false,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let error = |reason: String| config_error(directory, reason);
    let config: OpenFlamingoConfig =
        serde_json::from_value(contents.config).map_err(|e| error(e.to_string()))?;
    let checkpoint = directory.join(&config.checkpoint);
    let language = directory.join(&config.language);
    if language.is_file() {
        return Err(error(format!("`language` is the file {}, not a directory", language.display())));
    }
    let source = LanguageSource::open(&language)?;
    let clip = ClipSource::open(&directory.join(&config.vision), ClassToken::Dropped)?;
    let layout = Layout::read(std::slice::from_ref(&checkpoint), &source)?;
    let source = source.with_vocabulary(layout.rows);
    let model = layout
        .flamingo(config.cross_attn_every_n_layers)
        .map_err(|reason| Error::Config { path: checkpoint.clone(), reason })?;
    let (tokenizer, ids) = tokens(&source, &layout).map_err(|e| match e {
        Error::Config { .. } => e,
        other => error(other.to_string()),
    })?;
    let weights = open_weights(&checkpoint, &layout, &source, &clip, options)?;
    let vision = VisionConfig::Clip(clip.config);
    let flamingo = build(&vision, &model, &source, ids.image, &weights)?;
    let sha256 = content_sha256(&weights)?;
    let mut parameters = weights.parameters();
    parameters.remove(LANGUAGE);
    Ok(ModelParts {
        name: config.name,
        family: "open_flamingo",
        visual_sha256: visual_sha256(&vision, &model, &sha256),
        language_sha256: language_sha256(&weights, options)?,
        sha256,
        parameters,
        flamingo,
        joint_space: None,
        preprocess: vision.preprocess().clone(),
        stop_criteria: StopCriteria {
            stop: stop(&tokenizer, ids.end_of_chunk, source.config().sizes().tied || layout.has_head()),
            suppressed: vec![ids.image],
        },
        tokens: PromptTokens {
            begin: tokenizer.template_begin(),
            media: vec![ids.image],
            end_of_chunk: ids.end_of_chunk,
            answer: None,
        },
        tokenizer,
        format: format(),
        frame_mode: FrameMode::Joint,
    })
}

/// Opens the checkpoint over the language model and the vision encoder. What the checkpoint holds replaces theirs.
fn open_weights(
    checkpoint: &Path,
    layout: &Layout,
    source: &LanguageSource,
    clip: &ClipSource,
    options: &LoadOptions,
) -> Result<Weights> {
    let trained = |theirs: &str| layout.rename(source, theirs);
    // A separate head that the checkpoint does not hold lacks the rows of the added tokens.
    let language = |theirs: &str| match source.rename(theirs) {
        Rename::To(name) if layout::HEADS.contains(&name.as_str()) => {
            Rename::Resized { name, rows: layout.rows }.below(LANGUAGE)
        }
        other => other.below(LANGUAGE),
    };
    let vision = |theirs: &str| clip_vit::file_name(theirs).below("vision");
    let layers = [
        Layer { files: &[checkpoint.to_path_buf()], rename: &trained },
        Layer { files: &source.weight_files()?, rename: &language },
        Layer { files: &clip.files, rename: &vision },
    ];
    let weights = Weights::open_layers(&layers, &options.device, options.dtype, options.quantization)?;
    Ok(weights.by_headers(options.headers.as_ref()))
}

pub(super) fn build(
    vision: &VisionConfig,
    model: &FlamingoConfig,
    source: &LanguageSource,
    media_token: u32,
    weights: &Weights,
) -> Result<FlamingoParts> {
    let encoder = vision::build(vision, &weights.pp("vision"))?;
    let language = language::build(source.config(), &weights.pp(LANGUAGE))?;
    let rule = MediaAttentionRule { media_token, forget_token: None, config: model.media_attention };
    let parts = FlamingoParts::from_config(model, encoder, language, rule, weights)?;
    weights.finish()?;
    Ok(parts)
}

/// Returns the tokens that end an answer: the end of a chunk, as in open_flamingo. A model whose head has no row for it ends at
/// the end of the text.
fn stop(tokenizer: &Tokenizer, end_of_chunk: u32, scored: bool) -> Vec<u32> {
    let mut stop = vec![end_of_chunk];
    if !scored {
        stop.extend(tokenizer.eos());
    }
    stop
}

/// Ids of the added tokens.
struct Ids {
    end_of_chunk: u32,
    image: u32,
}

/// Adds the special tokens. The embedding of the checkpoint has one row per token.
fn tokens(source: &LanguageSource, layout: &Layout) -> Result<(Tokenizer, Ids)> {
    let mut tokenizer = source.tokenizer()?.add_special_tokens(&[END_OF_CHUNK, IMAGE])?;
    if tokenizer.vocabulary() < layout.rows {
        tokenizer = tokenizer.add_special_tokens(&[PAD])?;
    }
    if tokenizer.vocabulary() != layout.rows {
        return Err(Error::Tokenizer(format!(
            "{} tokens with those that open_flamingo adds, but the checkpoint's embedding has {} rows",
            tokenizer.vocabulary(),
            layout.rows
        )));
    }
    let id = |token: &str| {
        tokenizer.token_id(token).ok_or_else(|| Error::Tokenizer(format!("`{token}` cannot be added")))
    };
    let ids = Ids { end_of_chunk: id(END_OF_CHUNK)?, image: id(IMAGE)? };
    Ok((tokenizer, ids))
}

/// Returns the prompts of open_flamingo's evaluation. They lack the spaces of the paper's. Without a support set, two examples
/// without images show the form of an answer.
pub(super) fn format() -> PromptFormat {
    PromptFormat {
        caption: "<image>Output:".into(),
        question: "<image>Question:{question} Short answer:".into(),
        before_answer: String::new(),
        after_example: "\n".into(),
        keywords: ["Output:", "Question:", "Short answer:", "Answer:"].map(String::from).into(),
        example_captions: ["A man rides a horse on the beach.", "Two people cook in a kitchen."]
            .map(String::from)
            .into(),
        example_answers: [("What color is the bus?", "red"), ("How many dogs are there?", "2")]
            .map(|(question, answer)| (question.into(), answer.into()))
            .into(),
        dialogue: Some(DialogueFormat::default()),
        ..PromptFormat::default()
    }
}
