//! Question about one medium.

use super::{Plan, ShotText, TaskKind, few_shot, fill, up_to_keyword, zero_shot};
use crate::prompt::{Prompt, PromptFormat, QUESTION, WRITTEN_TEXT};

pub(super) struct Question<'a>(pub(super) &'a str);

impl TaskKind for Question<'_> {
    fn plan(&self, format: &PromptFormat, shots: &[ShotText]) -> Plan {
        Plan::Generate(prompt_after(format, shots, self.0, None))
    }

    fn read(&self, format: &PromptFormat, text: &str) -> String {
        up_to_keyword(format, text)
    }
}

/// Returns the prompt that asks a question about one medium. Markers in the question stay text.
pub fn prompt(format: &PromptFormat, question: &str) -> Prompt {
    prompt_after(format, &[], question, None)
}

/// Returns the prompt that asks a question about one medium, on which `text` may be written, after shots. A shot without a question
/// has that of the query.
pub(super) fn prompt_after(
    format: &PromptFormat,
    shots: &[ShotText],
    question: &str,
    text: Option<&str>,
) -> Prompt {
    let query = ask(format, question, text);
    if shots.is_empty() {
        let example =
            |(question, answer): &(String, String)| format.example(ask(format, question, None), answer);
        return zero_shot(format.example_answers.iter().map(example), query);
    }
    let shown =
        |shot: &ShotText| ask(format, shot.question.as_deref().unwrap_or(question), shot.text.as_deref());
    few_shot(format, shots, shown, query)
}

/// Returns the prompt of one question, without what comes before it.
fn ask(format: &PromptFormat, question: &str, text: Option<&str>) -> Prompt {
    match text {
        None => fill(format, &format.question, &[(QUESTION, question)]),
        Some(text) => {
            fill(format, &format.question_with_text(), &[(QUESTION, question), (WRITTEN_TEXT, text)])
        }
    }
}
