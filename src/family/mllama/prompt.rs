//! Prompts of Llama 3.2 Vision: the chat template of the directory, else a built-in format.

use std::path::Path;

use super::config::MllamaConfig;
use super::names::IMAGE;
use crate::error::Result;
use crate::family::chat_template::{self, ChatTemplate};
use crate::family::config_error;
use crate::language::Tokenizer;
use crate::prompt::{PromptFormat, PromptTokens};

/// Token that ends a message; a checkpoint that stops at it was trained on chats.
const END_OF_MESSAGE: &str = "<|eot_id|>";
/// Chat of a user with one text, where the directory has no template (part "prompt format" of the model card).
const BUILT_IN: &str = "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n\
    {% for content in message.content %}{% if content.type == 'image' %}<|image|>{% else %}{{ content.text }}{% endif %}\
    {% endfor %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}";
const DESCRIBE: &str = "Describe this in one sentence.";

/// Prompt format and tokens of one checkpoint.
pub(super) struct MllamaPrompt {
    pub tokens: PromptTokens,
    pub format: PromptFormat,
    pub stop: Vec<u32>,
}

/// Returns the chat template of a model directory, or the built-in one of a checkpoint that ends messages; `None` for a base
/// model.
pub(super) fn chat(
    directory: &Path,
    config: &MllamaConfig,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>> {
    let ends_messages = tokenizer.token_id(END_OF_MESSAGE).is_some_and(|id| config.eos.contains(&id));
    let source = match chat_template::source(directory)? {
        Some(source) => source,
        None if ends_messages => BUILT_IN.into(),
        None => return Ok(None),
    };
    let begin = config.bos.and_then(|bos| tokenizer.token(bos)).unwrap_or_default();
    ChatTemplate::new(source, begin, IMAGE.into(), tokenizer.special_tokens()).map(Some)
}

/// Reads prompt format and tokens of a model directory.
pub(super) fn read(directory: &Path, config: &MllamaConfig, tokenizer: &Tokenizer) -> Result<MllamaPrompt> {
    let chat = chat(directory, config, tokenizer)?;
    let end = match &chat {
        Some(_) => tokenizer.token_id(END_OF_MESSAGE).or(config.eos.first().copied()),
        None => config.eos.first().copied(),
    };
    let end = end.ok_or_else(|| config_error(directory, "`eos_token_id` is missing".into()))?;
    let format = match &chat {
        Some(chat) => chat_format(chat)?,
        None => base_format(),
    };
    format.check().map_err(|reason| config_error(directory, format!("chat template: {reason}")))?;
    let tokens =
        PromptTokens { begin: config.bos, media: vec![config.image_token], end_of_chunk: end, answer: None };
    Ok(MllamaPrompt { tokens, format, stop: config.eos.clone() })
}

fn chat_format(chat: &ChatTemplate) -> Result<PromptFormat> {
    let (caption, question) = (chat.format(DESCRIBE)?, chat.format("{question}")?);
    let used = |token: &String| caption.contains(token.as_str()) || question.contains(token.as_str());
    let special_tokens = chat.special_tokens().iter().filter(|token| used(token)).cloned().collect();
    Ok(PromptFormat {
        caption,
        question,
        before_answer: String::new(),
        question_with_text: None,
        keywords: Vec::new(),
        special_tokens,
        ..PromptFormat::default()
    })
}

fn base_format() -> PromptFormat {
    PromptFormat { caption: "<image>Caption:".into(), ..PromptFormat::default() }
}
