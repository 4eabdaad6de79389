//! Options about few-shot examples, the same on the command line and in jobs.

use std::num::NonZeroUsize;

use flamingo::Task;
use flamingo::few_shot::Selection;
use flamingo::few_shot::classifiers::Ensemble;
use flamingo::model::config::is_default;
use serde::{Deserialize, Serialize};

use crate::method_name::MethodName;

/// Greatest number of examples in one prompt.
pub const MAX_SHOTS: usize = 1000;
/// Greatest number of orders of the examples.
pub const MAX_PERMUTATIONS: usize = 100;

/// Number, choice and orders of few-shot examples. Part of the public contract: jobs and items contain its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShotOptions {
    /// Examples per prompt.
    #[serde(default = "default_shots")]
    pub shots: usize,
    #[serde(default)]
    pub select: SelectName,
    /// Seed of random choices: of the examples, and of their orders.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
    /// Orders of the examples in which a classification is answered.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub permutations: NonZeroUsize,
    /// Method of classifications.
    #[serde(default, skip_serializing_if = "is_default")]
    pub method: MethodName,
}

/// Name of a rule that chooses examples; see [`Selection`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectName {
    #[default]
    Nearest,
    /// Of the nearest examples, those with the most similar questions.
    NearestQuestion,
    Random,
    First,
}

/// Properties of a task that decide which options apply to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskTraits {
    /// Whether it chooses among labels.
    pub is_classification: bool,
    /// Whether it asks a question.
    pub has_question: bool,
    /// Whether it has an option about the scores of the language model.
    pub has_score_options: bool,
}

fn default_shots() -> usize {
    4
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn is_one(number: &NonZeroUsize) -> bool {
    *number == NonZeroUsize::MIN
}

impl Default for ShotOptions {
    fn default() -> Self {
        Self {
            shots: default_shots(),
            select: SelectName::Nearest,
            seed: 0,
            permutations: one(),
            method: MethodName::InContext,
        }
    }
}

impl TaskTraits {
    /// Returns the properties of a task.
    pub fn of(task: &Task) -> Self {
        let mut traits = Self { has_question: task.question().is_some(), ..Self::default() };
        if let Task::Classify(classification) = task {
            (traits.is_classification, traits.has_score_options) = (true, classification.has_score_options());
        }
        traits
    }
}

impl ShotOptions {
    /// Returns the rule that chooses the examples by their media.
    pub fn selection(&self) -> Selection {
        match self.select {
            SelectName::Nearest | SelectName::NearestQuestion => Selection::Nearest,
            SelectName::Random => Selection::Random { seed: self.seed },
            SelectName::First => Selection::First,
        }
    }

    /// Returns the orders of the examples.
    pub fn ensemble(&self) -> Ensemble {
        Ensemble { permutations: self.permutations, seed: self.seed }
    }

    /// Checks the numbers, and that the options mean something for every task. `grounded`: the grounding of answers is asked for.
    ///
    /// # Errors
    /// A sentence about the option and the reason.
    pub fn check(&self, tasks: impl IntoIterator<Item = TaskTraits>, grounded: bool) -> Result<(), String> {
        let Self { shots, select, permutations, method, .. } = self;
        if !(1..=MAX_SHOTS).contains(shots) {
            return Err(format!("`shots` is not within 1 to {MAX_SHOTS}"));
        }
        if permutations.get() > MAX_PERMUTATIONS {
            return Err(format!("`permutations` is not within 1 to {MAX_PERMUTATIONS}"));
        }
        let (ensemble, name) = (!is_one(permutations), method.name());
        if ensemble && !method.has_likelihoods() {
            return Err(format!(
                "`permutations` orders the examples of a prompt: the method {name} has none"
            ));
        }
        if grounded && *method != MethodName::InContext {
            let text = "the grounding is that of the language model, which the method in-context asks";
            return Err(format!("{text}, not the method {name}"));
        }
        for TaskTraits { is_classification, has_question, has_score_options } in tasks {
            if !is_classification && ensemble {
                let text = "`permutations` averages probabilities of labels: only a classification has them";
                return Err(text.into());
            }
            if !is_classification && *method != MethodName::InContext {
                return Err(format!("the method {name} only answers classifications"));
            }
            if has_score_options && !method.has_likelihoods() {
                let text = "`score` and `calibrate` are about the scores of the language model";
                return Err(format!("{text}: the method {name} has none"));
            }
            if !has_question && *select == SelectName::NearestQuestion {
                return Err("`nearest-question` compares questions, and a caption has none".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTION: TaskTraits =
        TaskTraits { is_classification: false, has_question: false, has_score_options: false };
    const QUESTION: TaskTraits = TaskTraits { has_question: true, ..CAPTION };
    const LABELS: TaskTraits = TaskTraits { is_classification: true, ..QUESTION };
    const CALIBRATED: TaskTraits = TaskTraits { has_score_options: true, ..LABELS };

    #[test]
    fn options_that_mean_nothing_are_refused() {
        for (text, task, expected) in [
            ("{}", CAPTION, None),
            (r#"{"permutations": 100}"#, CALIBRATED, None),
            (r#"{"permutations": 101}"#, LABELS, Some("not within 1 to 100")),
            (r#"{"permutations": 2}"#, QUESTION, Some("only a classification")),
            (
                r#"{"permutations": 2, "method": "prototypes"}"#,
                LABELS,
                Some("the method prototypes has none"),
            ),
            (r#"{"permutations": 2, "method": "auto"}"#, CALIBRATED, None),
            (r#"{"shots": 0}"#, LABELS, Some("`shots` is not within 1 to 1000")),
            (r#"{"shots": 1001}"#, LABELS, Some("`shots` is not within 1 to 1000")),
            (r#"{"method": "neighbours"}"#, LABELS, None),
            (r#"{"method": "auto"}"#, QUESTION, Some("auto only answers classifications")),
            (r#"{"method": "attention-vectors"}"#, CALIBRATED, Some("attention-vectors has none")),
            (r#"{"select": "nearest-question"}"#, QUESTION, None),
            (r#"{"select": "nearest-question"}"#, CAPTION, Some("a caption has none")),
        ] {
            let options: ShotOptions = serde_json::from_str(text).unwrap();
            match (options.check([LABELS, task], false), expected) {
                (Ok(()), None) => {}
                (Err(why), Some(expected)) => assert!(why.contains(expected), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
            let grounded = options.check([LABELS], true).is_ok();
            assert!(!grounded || options.method == MethodName::InContext, "{text}");
        }
        assert!(serde_json::from_str::<ShotOptions>(r#"{"permutations": 0}"#).is_err());
        assert!(serde_json::from_str::<ShotOptions>(r#"{"method": "label-text"}"#).is_err());
    }
}
