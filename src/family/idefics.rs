//! IDEFICS 9B, 80B and their instruct variants: directories of Hugging Face's `IdeficsForVisionText2Text`
//! (transformers 4.46, `models/idefics`).

use std::path::Path;

use super::checkpoint::{Checkpoint, LANGUAGE, language_sha256, visual_sha256};
use super::{Contents, Family, FrameMode, LoadOptions, ModelParts, config_error};
use crate::error::Result;
use crate::generate::StopCriteria;
use crate::language::{self, Tokenizer};
use crate::model::{FlamingoConfig, FlamingoParts, MediaAttentionRule};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::{self, VisionConfig};

mod config;
mod names;

use config::IdeficsConfig;

/// Token of an image. It stands between two [`FAKE`] tokens; adjacent images share one of them.
const IMAGE: &str = "<image>";
const FAKE: &str = "<fake_token_around_image>";
/// Token at the end of every turn of a dialogue. Only the instruct variants have it.
const END_OF_UTTERANCE: &str = "<end_of_utterance>";
const BEGIN: &str = "<s>";
/// Token at the end of a text. What follows it attends to no earlier image.
const END: &str = "</s>";

pub(super) const FAMILY: Family = Family {
    reads: "model type `idefics`",
    recognises: |contents| {
        contents.text("schema").is_none() && contents.text("model_type") == Some("idefics")
    },
    has_options: false,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let error = |reason| config_error(directory, reason);
    let config = IdeficsConfig::read(&contents.config).map_err(error)?;
    let preprocess = config.preprocess(directory)?;
    let checkpoint = Checkpoint::open(directory, options, &|name| names::rename(&config, name))?;
    let tokenizer = checkpoint.tokenizer(config.rows)?.with_spelled_begin(BEGIN);
    let tokens = Tokens::find(&checkpoint, &tokenizer)?;
    let (vision, model) = (VisionConfig::Clip(config.vision(preprocess.clone())), config.flamingo());
    let flamingo = build(&config, &vision, &model, tokens.rule(&model), &checkpoint)?;
    let sha256 = checkpoint.sha256()?;
    Ok(ModelParts {
        name: checkpoint.name(),
        family: "idefics",
        visual_sha256: visual_sha256(&vision, &model, &sha256),
        language_sha256: language_sha256(&checkpoint.weights, options)?,
        sha256,
        parameters: checkpoint.parameters(),
        flamingo,
        joint_space: None,
        tokenizer,
        preprocess,
        stop_criteria: tokens.stop_criteria(),
        frame_mode: FrameMode::Joint,
        format: tokens.format(),
        tokens: tokens.prompt(),
    })
}

fn build(
    config: &IdeficsConfig,
    vision: &VisionConfig,
    model: &FlamingoConfig,
    rule: MediaAttentionRule,
    checkpoint: &Checkpoint,
) -> Result<FlamingoParts> {
    let weights = &checkpoint.weights;
    let encoder = vision::build(vision, &weights.pp("vision"))?;
    let language = language::build(&config.language, &weights.pp(LANGUAGE))?;
    let parts = FlamingoParts::from_config(model, encoder, language, rule, weights)?;
    weights.finish()?;
    Ok(parts)
}

/// Ids of the special tokens.
struct Tokens {
    begin: u32,
    end: u32,
    image: u32,
    fake: u32,
    end_of_utterance: Option<u32>,
}

impl Tokens {
    fn find(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        let id = |name| checkpoint.token(tokenizer, name);
        Ok(Self {
            begin: id(BEGIN)?,
            end: id(END)?,
            image: id(IMAGE)?,
            fake: id(FAKE)?,
            end_of_utterance: tokenizer.token_id(END_OF_UTTERANCE),
        })
    }

    fn rule(&self, model: &FlamingoConfig) -> MediaAttentionRule {
        MediaAttentionRule {
            media_token: self.image,
            forget_token: Some(self.end),
            config: model.media_attention,
        }
    }

    fn prompt(&self) -> PromptTokens {
        PromptTokens {
            begin: Some(self.begin),
            media: vec![self.fake, self.image, self.fake],
            end_of_chunk: self.end_of_utterance.unwrap_or(self.end),
            answer: None,
        }
    }

    fn stop_criteria(&self) -> StopCriteria {
        StopCriteria {
            stop: self.end_of_utterance.into_iter().chain([self.end]).collect(),
            suppressed: vec![self.image, self.fake],
        }
    }

    /// Returns the prompts of the model cards and of Hugging Face's guide to IDEFICS.
    fn format(&self) -> PromptFormat {
        let (caption, question, keywords): (_, _, &[&str]) = match self.end_of_utterance {
            Some(_) => (
                "User:<image>Describe this image.<EOC>\nAssistant:",
                "User:<image>{question}<EOC>\nAssistant:",
                &["User:", "Assistant:"],
            ),
            None => (
                "<image>An image of",
                "Instruction: Provide an answer to the question. Use the image to answer.\n\
                 <image>Question: {question} Answer:",
                &["Question:", "Answer:", "Instruction:"],
            ),
        };
        PromptFormat {
            caption: caption.into(),
            question: question.into(),
            question_with_text: None,
            keywords: keywords.iter().map(|&keyword| keyword.into()).collect(),
            ..PromptFormat::default()
        }
    }
}
