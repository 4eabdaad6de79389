//! Prompts of a conversation.

use serde::{Deserialize, Serialize};

/// Prompts of a conversation, with the markers of [`PromptFormat`](super::PromptFormat). The default is the paper's (appendix D of its first
/// version), without its three examples, which have images.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialogueFormat {
    /// Text before the first message.
    pub start: String,
    /// Prompt of a message. Only the first one has a medium.
    pub message: String,
    /// Texts that end a reply, besides those that end an answer.
    pub keywords: Vec<String>,
}

impl Default for DialogueFormat {
    fn default() -> Self {
        let start = "This is a conversation between a human, User, and an intelligent visual AI, Flamingo. User sends images, and \
                     Flamingo describes them.\n\n";
        Self {
            start: start.into(),
            message: "User: <image>{question}\nFlamingo:".into(),
            keywords: ["User:", "Flamingo:"].map(String::from).into(),
        }
    }
}
