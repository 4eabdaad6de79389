//! Manifests: lines of an input manifest, and the schema of the result manifest.

use flamingo::Task;
use jobs::Failure;
use serde::{Deserialize, Serialize};

use super::JobTask;
use super::validate::{TaskDemands, check_tasks};

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
    /// Returns the tasks of this line of a job with these demands; `None` means those of the job.
    ///
    /// # Errors
    /// It has an empty list of tasks, both a question and tasks, or a task that does not meet the demands.
    pub fn tasks(&self, demands: TaskDemands) -> Result<Option<Vec<JobTask>>, Failure> {
        let tasks = match (&self.question, &self.tasks) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("bad_manifest", "both `question` and `tasks`"));
            }
            (Some(question), None) => vec![Task::Question { question: question.clone() }.into()],
            (None, Some(tasks)) => tasks.clone(),
            (None, None) => return Ok(None),
        };
        check_tasks(&tasks)?;
        demands.check(&tasks)?;
        Ok(Some(tasks))
    }
}
