//! From a job to its items: labels and support set are fixed when the inputs are listed.

use flamingo::Task;
use flamingo::few_shot::SupportSet;
use inference::analysis::AnalysisSpec;
use jobs::{Failure, ItemId, JobId};

use super::task::{OutputLabels, output_labels};
use super::validate::TaskDemands;
use super::{FewShot, ITEM_SCHEMA, Item, JobMessage, JobTask, NoUnknownFields, SupportVersion};

/// A job whose inputs are listed: makes its items.
pub struct ListedJob<'j> {
    job: &'j JobMessage,
    id: &'j JobId,
    spec: AnalysisSpec,
    few_shot: Option<FewShot<SupportVersion>>,
    labels: OutputLabels,
}

impl<'j> ListedJob<'j> {
    /// Fixes the version of the support set, and the labels of classifications without labels.
    ///
    /// # Errors
    /// The outputs of the examples are no labels, and a task needs them.
    pub fn new(
        job: &'j JobMessage,
        id: &'j JobId,
        support: Option<(SupportVersion, &SupportSet)>,
    ) -> Result<Self, Failure> {
        let (version, set) = support.unzip();
        let labels = output_labels(set);
        let AnalysisSpec { tasks, sampling, window, max_frames, generation, long, grounding } =
            job.spec.clone();
        let tasks = resolve(&tasks, &labels)?;
        let few_shot = job.few_shot.as_ref().zip(version).map(|(few_shot, version)| few_shot.of(version));
        let spec = AnalysisSpec { tasks, sampling, window, max_frames, generation, long, grounding };
        Ok(Self { job, id, spec, few_shot, labels })
    }

    /// Creates an item.
    pub fn item(&self, item_id: ItemId, video: String) -> Item {
        let JobMessage { model, priority, output, .. } = self.job;
        Item {
            schema: ITEM_SCHEMA.into(),
            job_id: self.id.clone(),
            item_id,
            custom_id: None,
            video,
            etag: None,
            refused: None,
            spec: self.spec.clone(),
            few_shot: self.few_shot.clone(),
            model: model.clone(),
            priority: *priority,
            output: output.clone(),
            rest: NoUnknownFields,
        }
    }

    /// Returns the tasks of one video.
    ///
    /// # Errors
    /// A task needs labels, and there are none.
    pub fn tasks(&self, tasks: &[JobTask]) -> Result<Vec<Task>, Failure> {
        resolve(tasks, &self.labels)
    }

    /// Returns the properties of the job that limit its tasks.
    pub fn demands(&self) -> TaskDemands<'_> {
        TaskDemands::of(self.job)
    }

    /// Id of the job.
    pub fn id(&self) -> &JobId {
        self.id
    }
}

fn resolve(tasks: &[JobTask], labels: &OutputLabels) -> Result<Vec<Task>, Failure> {
    tasks.iter().map(|task| task.resolve(labels)).collect()
}
