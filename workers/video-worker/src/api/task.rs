//! Tasks of jobs: the labels of a classification may be the outputs of the few-shot examples.

use flamingo::Task;
use flamingo::few_shot::SupportSet;
use flamingo::model::config::is_default;
use flamingo::task::{Classification, LabelScore, Labels, what_is_this};
use inference::shot_options::TaskTraits;
use jobs::Failure;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A task, as a job or a line of a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobTask {
    Given(Task),
    /// Classification without labels: they are the outputs of the few-shot examples.
    ClassifyOutputs(ClassifyOutputs),
}

/// Classification whose labels are the outputs of the few-shot examples; the fields are those of [`Classification`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename = "classify")]
pub struct ClassifyOutputs {
    #[serde(default = "what_is_this")]
    pub question: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub score: LabelScore,
    #[serde(default, skip_serializing_if = "is_default")]
    pub calibrate: bool,
}

/// Labels of the classifications that name none.
pub type OutputLabels = Result<Labels, Failure>;

/// Returns the outputs of a support set as labels. The failure of a set whose outputs are no labels matters only to a task
/// that needs them.
pub fn output_labels(set: Option<&SupportSet>) -> OutputLabels {
    let Some(set) = set else {
        let text =
            "a classification needs `labels`, or `few_shot` with examples whose outputs are the labels";
        return Err(Failure::new("bad_request", text));
    };
    Labels::new(set.outputs()).map_err(|why| {
        Failure::new("bad_request", format!("the outputs of the few-shot examples are no labels: {why}"))
    })
}

impl JobTask {
    /// Returns the properties that decide which options apply to the task.
    pub fn traits(&self) -> TaskTraits {
        match self {
            JobTask::Given(task) => TaskTraits::of(task),
            JobTask::ClassifyOutputs(ClassifyOutputs { score, calibrate, .. }) => TaskTraits {
                is_classification: true,
                has_question: true,
                has_score_options: *calibrate || !is_default(score),
            },
        }
    }

    /// Returns the task of an item, with all of its labels.
    ///
    /// # Errors
    /// The task needs labels, and there are none.
    pub fn resolve(&self, labels: &OutputLabels) -> Result<Task, Failure> {
        match self {
            JobTask::Given(task) => Ok(task.clone()),
            JobTask::ClassifyOutputs(ClassifyOutputs { question, text, score, calibrate }) => {
                let (labels, question, text) = (labels.clone()?, question.clone(), text.clone());
                let (score, calibrate) = (*score, *calibrate);
                Ok(Task::Classify(Classification { labels, question, text, score, calibrate }))
            }
        }
    }
}

impl From<Task> for JobTask {
    fn from(task: Task) -> Self {
        JobTask::Given(task)
    }
}

impl Serialize for JobTask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            JobTask::Given(task) => task.serialize(serializer),
            JobTask::ClassifyOutputs(task) => task.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for JobTask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut task = Value::deserialize(deserializer)?;
        if task.get("kind").is_some_and(|kind| kind == "classify") && task.get("labels").is_none() {
            task.as_object_mut().map(|fields| fields.remove("kind"));
            return ClassifyOutputs::deserialize(task)
                .map(JobTask::ClassifyOutputs)
                .map_err(D::Error::custom);
        }
        Task::deserialize(task).map(JobTask::Given).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_may_be_the_outputs_of_the_examples() {
        let parse = |text: &str| serde_json::from_str::<JobTask>(text);
        let task = parse(r#"{"kind": "classify"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&task).unwrap(),
            r#"{"kind":"classify","question":"What is this?"}"#
        );
        let set = |outputs: &[&str]| {
            let line = |output| json!({ "media": "a.mp4", "output": output }).to_string() + "\n";
            SupportSet::from_json_lines(&outputs.iter().map(line).collect::<String>()).unwrap()
        };
        let resolve = |set: Option<&SupportSet>| task.resolve(&output_labels(set));
        let outputs = set(&["owl", "frog", "owl"]);
        let Task::Classify(found) = resolve(Some(&outputs)).unwrap() else { panic!("{task:?}") };
        assert_eq!(found.labels.iter().collect::<Vec<_>>(), ["owl", "frog"]);
        let text = r#"{"kind":"classify","question":"Who?","score":"mean","calibrate":true}"#;
        let options = parse(text).unwrap();
        assert_eq!(serde_json::to_string(&options).unwrap(), text);
        let Task::Classify(found) = options.resolve(&output_labels(Some(&outputs))).unwrap() else {
            panic!("{options:?}")
        };
        assert_eq!((found.score, found.calibrate), (LabelScore::Mean, true));
        let one = resolve(Some(&set(&["owl", "owl"]))).unwrap_err();
        assert!(one.message.contains("no labels: a classification has 2 to 1000 labels, not 1"), "{one}");
        assert!(resolve(None).unwrap_err().message.contains("needs `labels`, or `few_shot`"));
        let meme = r#"{"kind":"classify","question":"Is it hateful?","text":"so cute"}"#;
        let with_text = parse(meme).unwrap();
        assert_eq!(serde_json::to_string(&with_text).unwrap(), meme);
        let resolved = with_text.resolve(&output_labels(Some(&set(&["yes", "no"])))).unwrap();
        assert!(
            matches!(resolved, Task::Classify(Classification { text: Some(text), .. }) if text == "so cute")
        );
        let caption = parse(r#"{"kind": "caption"}"#).unwrap();
        assert_eq!(caption.resolve(&output_labels(None)), Ok(Task::Caption {}), "it needs no labels");
        for (text, expected) in [
            (r#"{"kind": "classify", "label": ["a"]}"#, "unknown field `label`"),
            (r#"{"kind": "classify", "labels": ["a"]}"#, "2 to 1000 labels, not 1"),
            (r#"{"kind": "sing"}"#, "unknown variant `sing`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
