//! Tasks: a prompt out, an answer back.

use serde::{Deserialize, Serialize};

use crate::prompt::{Prompt, PromptFormat};

/// A task over media. Part of the public contract.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Task {
    /// A caption of one medium.
    // With braces: serde accepts any field for a unit variant.
    Caption {},
    /// One question about one medium.
    Question {
        /// The question; untrusted text.
        question: String,
    },
    /// A free prompt, with `<image>` or `<video>` at the place of each medium; see [`Prompt::parse`].
    Complete {
        /// The prompt with its markers.
        prompt: String,
    },
}

impl Task {
    /// Returns the prompt of the task.
    pub fn prompt(&self, format: &PromptFormat) -> Prompt {
        match self {
            Task::Caption {} => format.ask_caption(),
            Task::Question { question } => format.ask_question(question),
            Task::Complete { prompt } => Prompt::parse(prompt),
        }
    }

    /// Reads the answer from generated text.
    pub fn read(&self, format: &PromptFormat, text: &str) -> String {
        match self {
            Task::Caption {} | Task::Question { .. } => format.read_answer(text),
            Task::Complete { .. } => text.trim().to_string(),
        }
    }
}
