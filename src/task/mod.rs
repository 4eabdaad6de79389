//! What is asked of a video: a prompt out, a typed answer back.

use serde::{Deserialize, Serialize};

use crate::prompt::{Prompt, PromptFormat};

/// A question to the model. Part of the public contract.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Task {
    /// What is to be seen?
    // With braces: next to a bare name serde would take any field.
    Caption {},
    /// One question about one medium.
    Question { question: String },
    /// A prompt in its own words, with `<image>` or `<video>` where each medium goes; see [`Prompt::parse`].
    Complete { prompt: String },
}

impl Task {
    /// The prompt that asks this.
    pub fn prompt(&self, format: &PromptFormat) -> Prompt {
        match self {
            Task::Caption {} => format.ask_caption(),
            Task::Question { question } => format.ask_question(question),
            Task::Complete { prompt } => Prompt::parse(prompt),
        }
    }

    /// The answer in what the model wrote.
    pub fn read(&self, format: &PromptFormat, written: &str) -> String {
        match self {
            Task::Caption {} | Task::Question { .. } => format.read_answer(written),
            Task::Complete { .. } => written.trim().to_string(),
        }
    }
}
