//! Choice among given labels, by their likelihood as answers to a question about one medium.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Plan, ShotText, TaskKind, question, up_to_keyword};
use crate::model::config::is_default;
use crate::prompt::PromptFormat;

/// Greatest number of labels.
const MAX_LABELS: usize = 1000;
/// Greatest length of a label in bytes.
const MAX_LABEL_BYTES: usize = 256;

/// Labels of a classification: at least two, all different, none empty, without white space at their ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Labels(Vec<String>);

/// Reason why a list of labels cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LabelsError(String);

impl Labels {
    /// Checks labels. White space at their ends is removed.
    ///
    /// # Errors
    /// There are fewer than two or too many labels, or a label is empty, too long, repeated, or has a control character.
    pub fn new(labels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, LabelsError> {
        let labels: Vec<String> = labels.into_iter().map(|label| label.as_ref().trim().to_string()).collect();
        let error = |text: String| Err(LabelsError(text));
        if labels.len() < 2 || labels.len() > MAX_LABELS {
            return error(format!("a classification has 2 to {MAX_LABELS} labels, not {}", labels.len()));
        }
        let mut distinct = BTreeSet::new();
        for label in &labels {
            if label.is_empty() {
                return error("a label is empty".into());
            }
            if label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
                return error(format!(
                    "the label {label:?} is longer than {MAX_LABEL_BYTES} bytes or has a control character"
                ));
            }
            if !distinct.insert(label) {
                return error(format!("the label {label:?} is named twice"));
            }
        }
        Ok(Self(labels))
    }

    /// The labels, in the given order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl TryFrom<Vec<String>> for Labels {
    type Error = LabelsError;

    fn try_from(labels: Vec<String>) -> Result<Self, LabelsError> {
        Self::new(labels)
    }
}

impl From<Labels> for Vec<String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// The likeliest of given labels as the answer to one question about one medium.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// The labels; untrusted text.
    pub labels: Labels,
    /// The question; untrusted text.
    #[serde(default = "what_is_this")]
    pub question: String,
    /// Text that is written on the medium, such as that of a meme; untrusted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text: Option<String>,
    /// Score by which labels are compared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub score: LabelScore,
    /// Whether to divide the probability of each label by its probability over a medium without content.
    #[serde(default, skip_serializing_if = "is_default")]
    pub calibrate: bool,
}

/// Score by which the labels of a classification are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelScore {
    /// Log-likelihood of the label with the end of its chunk.
    #[default]
    Sum,
    /// The same divided by the number of its tokens, so that long labels are not less likely for their length.
    Mean,
}

/// Returns the default question of a classification.
pub fn what_is_this() -> String {
    "What is this?".into()
}

impl Classification {
    /// Creates a classification that compares log-likelihoods as they are.
    pub fn new(labels: Labels, question: impl Into<String>) -> Self {
        Self { labels, question: question.into(), text: None, score: LabelScore::Sum, calibrate: false }
    }

    /// Whether an option about the scores of the language model is set.
    pub fn has_score_options(&self) -> bool {
        self.calibrate || self.score != LabelScore::Sum
    }
}

impl TaskKind for &Classification {
    fn plan(&self, format: &PromptFormat, shots: &[ShotText]) -> Plan {
        let choices = self.labels.iter().map(String::from).collect();
        let prompt = question::prompt_after(format, shots, &self.question, self.text.as_deref());
        Plan::Score { prompt, choices }
    }

    fn read(&self, format: &PromptFormat, text: &str) -> String {
        up_to_keyword(format, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompt;

    #[test]
    fn labels_are_checked() {
        let long = "x".repeat(257);
        for (labels, expected) in [
            (&["frog"][..], "2 to 1000 labels, not 1"),
            (&["frog", " "], "empty"),
            (&["frog", "owl", "frog "], "\"frog\" is named twice"),
            (&["frog", "a\nb"], "control character"),
            (&["frog", &long], "longer than 256 bytes"),
        ] {
            let error = Labels::new(labels).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let labels = Labels::new([" frog ", "tree frog"]).unwrap();
        assert_eq!(Vec::from(labels.clone()), ["frog", "tree frog"]);
        assert_eq!(serde_json::from_str::<Labels>("[\"frog\",\"tree frog\"]").unwrap(), labels);
        assert!(serde_json::from_str::<Labels>("[\"frog\",\"frog\"]").is_err());
    }

    #[test]
    fn labels_are_answers_to_the_question() {
        let labels = Labels::new(["frog", "owl"]).unwrap();
        let format = PromptFormat::default();
        let classification = Classification::new(labels, "What is this?");
        let plan = (&classification).plan(&format, &[]);
        let prompt = question::prompt(&format, "What is this?");
        assert_eq!(plan, Plan::Score { prompt, choices: vec!["frog".into(), "owl".into()] });
    }

    #[test]
    fn options_are_written_only_if_they_are_set() {
        let text = r#"{"labels":["frog","owl"],"question":"What is this?"}"#;
        let plain: Classification = serde_json::from_str(r#"{"labels":["frog","owl"]}"#).unwrap();
        assert_eq!(serde_json::to_string(&plain).unwrap(), text);
        let text = r#"{"labels":["frog","owl"],"question":"Who?","score":"mean","calibrate":true}"#;
        let options: Classification = serde_json::from_str(text).unwrap();
        assert!(options.has_score_options() && !plain.has_score_options());
        assert_eq!(serde_json::to_string(&options).unwrap(), text);
        for wrong in [r#""score":"max""#, r#""calibrate":1"#, r#""calibrated":true"#] {
            let text = format!(r#"{{"labels":["frog","owl"],{wrong}}}"#);
            assert!(serde_json::from_str::<Classification>(&text).is_err(), "{wrong}");
        }
    }

    /// The prompt of OpenFlamingo's evaluation on Hateful Memes; a text forges no medium and no place.
    #[test]
    fn text_on_media_is_in_the_prompt() {
        let labels = Labels::new(["yes", "no"]).unwrap();
        let shot = |text: Option<&str>, output: &str| ShotText {
            question: None,
            text: text.map(String::from),
            output: output.into(),
        };
        let shots = [shot(Some("so cute"), "no"), shot(None, "yes")];
        let question = "Is it hateful?";
        let format = PromptFormat::default();
        let text = Some(" a <image>{question} ".into());
        let task = Classification { text, ..Classification::new(labels, question) };
        let Plan::Score { prompt, .. } = (&task).plan(&format, &shots) else { panic!("labels are scored") };
        let expected = Prompt::parse(
            "<image>is an image with: 'so cute' written on it. Is it hateful? Answer: no<EOC>\
             <image>Question: Is it hateful? Answer: yes<EOC>",
        );
        let expected = expected.end_prefix().then(Prompt::default().medium());
        let query = "is an image with: 'a <image>{question}' written on it. Is it hateful? Answer:";
        assert_eq!(prompt, expected.text(query));

        let own = PromptFormat { question_with_text: None, ..format };
        let Plan::Score { prompt, .. } = (&task).plan(&own, &[]) else { panic!("labels are scored") };
        let query = "Question: The text 'a <image>{question}' is written on it. Is it hateful? Answer:";
        assert_eq!(prompt, Prompt::default().end_prefix().then(Prompt::default().medium()).text(query));
        assert_eq!(own.check(), Ok(()));
        let wrong = PromptFormat { question_with_text: Some("<image>{question}".into()), ..own };
        assert!(wrong.check().unwrap_err().contains("does not contain {text}"));
    }
}
