//! Manifests: lines of an input manifest, and the schema of the result manifest.

use flamingo::Task;
use inference::shot_options::ShotOptions;
use jobs::Failure;
use serde::{Deserialize, Serialize};

use super::JobTask;
use super::validate::{check_examples_apply, check_tasks};

/// Schema version of the result manifest.
pub const MANIFEST_SCHEMA: &str = "flamingo.manifest/1";

/// A line of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestLine {
    /// Name of the result; unique in the manifest.
    pub custom_id: String,
    pub video: String,
    /// Question about this video, instead of the tasks of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<JobTask>>,
}

impl ManifestLine {
    /// Returns the tasks of this line, which follow few-shot examples as `examples` say if the job has any; `None` means those of the job.
    ///
    /// # Errors
    /// It has an empty list of tasks, both a question and tasks, or a task that takes no examples.
    pub fn tasks(&self, examples: Option<&ShotOptions>) -> Result<Option<Vec<JobTask>>, Failure> {
        let tasks = match (&self.question, &self.tasks) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("bad_manifest", "both `question` and `tasks`"));
            }
            (Some(question), None) => vec![Task::Question { question: question.clone() }.into()],
            (None, Some(tasks)) => tasks.clone(),
            (None, None) => return Ok(None),
        };
        check_tasks(&tasks)?;
        if let Some(options) = examples {
            // The grounding of the job was checked with the job.
            check_examples_apply(&tasks, options, false)?;
        }
        Ok(Some(tasks))
    }
}
