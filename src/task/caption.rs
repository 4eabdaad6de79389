//! Caption of one medium.

use super::{Plan, ShotText, TaskKind, few_shot, up_to_keyword, zero_shot};
use crate::prompt::{Prompt, PromptFormat};

pub(super) struct Caption;

impl TaskKind for Caption {
    fn plan(&self, format: &PromptFormat, shots: &[ShotText]) -> Plan {
        let ask = || format.parse(&format.caption);
        Plan::Generate(match shots {
            [] => prompt(format),
            shots => few_shot(format, shots, |_| ask(), ask()),
        })
    }

    fn read(&self, format: &PromptFormat, text: &str) -> String {
        up_to_keyword(format, text)
    }
}

/// Returns the prompt that asks for a caption of one medium.
pub fn prompt(format: &PromptFormat) -> Prompt {
    let example = |caption: &String| format.example(format.parse(&format.caption), caption);
    zero_shot(format.example_captions.iter().map(example), format.parse(&format.caption))
}
