//! Question about one medium.

use super::{Plan, ShotText, TaskKind, few_shot, fill, up_to_keyword, zero_shot};
use crate::prompt::{Prompt, PromptFormat};

pub(super) struct Question<'a>(pub(super) &'a str);

impl TaskKind for Question<'_> {
    fn plan(&self, format: &PromptFormat, shots: &[ShotText]) -> Plan {
        Plan::Generate(prompt_after(format, shots, self.0))
    }

    fn read(&self, format: &PromptFormat, text: &str) -> String {
        up_to_keyword(format, text)
    }
}

/// Returns the prompt that asks a question about one medium. Markers in the question stay text.
pub fn prompt(format: &PromptFormat, question: &str) -> Prompt {
    let example = |(question, answer): &(String, String)| {
        format.example(fill(format, &format.question, question), answer)
    };
    zero_shot(format.example_answers.iter().map(example), fill(format, &format.question, question))
}

/// Returns the prompt that asks a question about one medium, after shots. A shot without a question has that of the query.
pub(super) fn prompt_after(format: &PromptFormat, shots: &[ShotText], question: &str) -> Prompt {
    match shots {
        [] => prompt(format, question),
        shots => {
            let ask = |shot: &ShotText| {
                fill(format, &format.question, shot.question.as_deref().unwrap_or(question))
            };
            few_shot(format, shots, ask, fill(format, &format.question, question))
        }
    }
}
