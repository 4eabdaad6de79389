//! Continuation of a free prompt.

use super::{Plan, ShotText, TaskKind};
use crate::prompt::{Prompt, PromptFormat};

pub(super) struct Complete<'a>(pub(super) &'a str);

impl TaskKind for Complete<'_> {
    fn plan(&self, _: &PromptFormat, _: &[ShotText]) -> Plan {
        Plan::Generate(Prompt::parse(self.0))
    }

    fn read(&self, _: &PromptFormat, text: &str) -> String {
        text.trim().to_string()
    }
}
