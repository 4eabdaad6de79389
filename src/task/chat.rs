//! Conversation about one medium.

use serde::{Deserialize, Serialize};

use super::{Plan, ShotText, TaskKind, fill};
use crate::prompt::{Prompt, PromptFormat, QUESTION};

/// A message of the user with the reply of the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The message; untrusted text.
    pub message: String,
    /// The reply; untrusted text.
    pub reply: String,
}

pub(super) struct Chat<'a> {
    pub(super) history: &'a [Exchange],
    pub(super) message: &'a str,
}

impl TaskKind for Chat<'_> {
    /// The medium stands before the first message, so each text after it attends to it. The history forms the prefix.
    fn plan(&self, format: &PromptFormat, _: &[ShotText]) -> Plan {
        let dialogue = &format.dialogue;
        let template = dialogue.as_ref().map_or(&format.question, |dialogue| &dialogue.message);
        let start = dialogue.as_ref().map_or("", |dialogue| &dialogue.start);
        let message = |i: usize, text: &str| {
            let prompt = fill(format, template, &[(QUESTION, text)]);
            if i == 0 { prompt } else { prompt.without_media() }
        };
        let mut prompt = format.parse(start);
        for (i, exchange) in self.history.iter().enumerate() {
            prompt = prompt.then(format.example(message(i, &exchange.message), exchange.reply.trim()));
        }
        if !self.history.is_empty() {
            prompt = prompt.end_prefix();
        }
        Plan::Generate(prompt.then(message(self.history.len(), self.message)))
    }

    fn read(&self, format: &PromptFormat, text: &str) -> String {
        let of_dialogue = format.dialogue.iter().flat_map(|dialogue| &dialogue.keywords);
        super::up_to(format.keywords.iter().chain(of_dialogue), text)
    }
}

/// Returns the prompt of a message after a history.
pub fn prompt(format: &PromptFormat, history: &[Exchange], message: &str) -> Prompt {
    Chat { history, message }.plan(format, &[]).prompt().clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::DialogueFormat;

    fn exchange(message: &str, reply: &str) -> Exchange {
        Exchange { message: message.into(), reply: reply.into() }
    }

    #[test]
    fn medium_stands_before_the_first_message() {
        let format = PromptFormat::default();
        let first = prompt(&format, &[], " What is this? ");
        assert_eq!(first, Prompt::parse("<image>Question: What is this? Answer:"));
        let history = [exchange("What is this?", " an owl "), exchange("Is it red?", "no <image>")];
        let third = prompt(&format, &history, "Why?");
        // A marker in a reply is text.
        let expected = Prompt::parse(
            "<image>Question: What is this? Answer: an owl<EOC>Question: Is it red? Answer: no ",
        )
        .text("<image>")
        .end_of_chunk()
        .end_prefix()
        .then(Prompt::parse("Question: Why? Answer:"));
        assert_eq!(third, expected);
    }

    #[test]
    fn format_may_have_a_dialogue() {
        let format = PromptFormat { dialogue: Some(DialogueFormat::default()), ..PromptFormat::default() };
        let second = prompt(&format, &[exchange("Hello.", "A cat.")], "What colour?");
        let expected = Prompt::parse(&format!(
            "{}User: <image>Hello.\nFlamingo: A cat.<EOC>",
            DialogueFormat::default().start
        ))
        .end_prefix()
        .then(Prompt::parse("User: What colour?\nFlamingo:"));
        assert_eq!(second, expected);
        let chat = Chat { history: &[], message: "" };
        assert_eq!(chat.read(&format, " It is black.\nUser: and"), "It is black.");
        assert_eq!(chat.read(&PromptFormat::default(), " black Question: x"), "black");
    }
}
