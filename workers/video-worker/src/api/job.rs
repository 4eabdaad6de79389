//! Jobs, as clients send them.

use std::collections::BTreeMap;

use flamingo::digest::sha256;
use flamingo::generate::Generation;
use flamingo::video::FrameSampling;
use inference::analysis::{AnalysisSpec, GroundingSpec};
use inference::context::Priority;
use jobs::job::NewJob;
use jobs::message::parse;
use jobs::queue::{Lane, Message};
use jobs::store::Store;
use jobs::time::RequestTime;
use jobs::trace::TraceContext;
use jobs::{Failure, JobId, Stopped};
use serde::{Deserialize, Serialize};

use super::{FewShot, JobTask, NoUnknownFields, SupportSource, json, longest_key};

/// Schema version of [`JobMessage`].
pub const JOB_SCHEMA: &str = "flamingo.job/1";

/// A job as a client sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobMessage {
    pub schema: String,
    /// Id of the job; may be left out if there is a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Two requests with the same key and the same content are one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(flatten)]
    pub spec: AnalysisSpec<JobTask>,
    pub input: Input,
    /// Examples before each video. The items of an earlier job ([`Input::UnfinishedOf`]) keep theirs, as they keep their tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot<SupportSource>>,
    /// Name of the required model; any model without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Path below the store of the worker; the folder of the job is created in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Earliest start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<RequestTime>,
    /// The job is ended at this time; finished items stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<RequestTime>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Queue for the end event; the message property of this name serves too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(flatten)]
    pub rest: NoUnknownFields,
}

/// Returns the lane for items of a priority.
pub fn lane(priority: Priority) -> Lane {
    match priority {
        Priority::Normal => Lane::Items,
        Priority::Urgent => Lane::Urgent,
    }
}

/// The videos of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Input {
    Video(String),
    Videos(Vec<String>),
    /// All objects below a prefix whose relative path matches a glob.
    Prefix {
        url: String,
        #[serde(default = "every_file")]
        glob: String,
    },
    /// A JSONL file of [`ManifestLine`](super::ManifestLine)s.
    Manifest(String),
    /// Failed and cancelled items of a finished job, each with the tasks it had there.
    UnfinishedOf(JobId),
}

fn every_file() -> String {
    "**".into()
}

/// The fields that make two requests with the same key one job. Their order is part of the hash, which the ledger keeps.
#[derive(Serialize)]
struct RequestIdentity<'j> {
    schema: &'j str,
    tasks: &'j [JobTask],
    input: &'j Input,
    sampling: &'j FrameSampling,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<f64>,
    max_frames: usize,
    generation: &'j Generation,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    long: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    grounding: Option<GroundingSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'j str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    output: &'j str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'j BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    few_shot: Option<&'j FewShot<SupportSource>>,
}

impl<'j> RequestIdentity<'j> {
    fn of(job: &'j JobMessage) -> Self {
        let JobMessage { schema, spec, input, model, output, metadata, few_shot, .. } = job;
        let AnalysisSpec { tasks, sampling, window, max_frames, generation, long, grounding } = spec;
        let (window, max_frames, long, grounding) = (*window, *max_frames, *long, *grounding);
        let model = model.as_deref();
        let few_shot = few_shot.as_ref();
        Self {
            schema,
            tasks,
            input,
            sampling,
            window,
            max_frames,
            generation,
            long,
            grounding,
            model,
            output,
            metadata,
            few_shot,
        }
    }
}

impl JobMessage {
    /// Parses and validates a job message; message properties fill fields that the body leaves out.
    pub fn parse(message: &Message) -> Result<Self, Stopped> {
        let mut job: Self = parse(&message.body, JOB_SCHEMA)?;
        job.reply_to = job.reply_to.or_else(|| message.reply_to.clone());
        job.correlation_id = job.correlation_id.or_else(|| message.correlation_id.clone());
        job.check().map_err(Stopped::fail)?;
        Ok(job)
    }

    /// Returns the id of the job in the ledger.
    pub(super) fn id(&self) -> Result<JobId, Failure> {
        match (&self.job_id, &self.idempotency_key) {
            (Some(id), _) => Ok(id.clone()),
            (None, Some(key)) => JobId::try_from(format!("key-{}", &sha256(key.as_bytes())[..32])),
            (None, None) => {
                Err(Failure::new("bad_request", "a job needs a `job_id` or an `idempotency_key`"))
            }
        }
    }

    /// Returns the job for the ledger.
    ///
    /// # Errors
    /// It has neither id nor key.
    pub fn to_new(&self) -> Result<NewJob, Failure> {
        let id = self.id()?;
        let key = self.idempotency_key.clone().unwrap_or_else(|| id.to_string());
        let named = Self { job_id: Some(id.clone()), ..self.clone() };
        Ok(NewJob {
            id,
            key,
            request_sha256: sha256(json(&RequestIdentity::of(self)).as_bytes()),
            message: json(&named),
            not_before: self.not_before,
            deadline: self.deadline,
            trace: TraceContext::current(),
        })
    }

    /// Checks that a store takes the results of the job.
    ///
    /// # Errors
    /// `bad_request`: a key of the results may be too long.
    pub fn check_store(&self, store: &Store) -> Result<(), Failure> {
        let key = longest_key(&self.output, &self.id()?);
        store.check_key_length(&key).map_err(|error| {
            let text = format!(
                "`output` has {} bytes; keys of its results may be too long: {error}",
                self.output.len()
            );
            Failure::new("bad_request", text)
        })
    }

    /// Parses a job without a surrounding message; call [`check`](Self::check) on the result.
    ///
    /// # Errors
    /// It is malformed, or of another version.
    pub fn read(text: &[u8]) -> Result<Self, Failure> {
        parse(text, JOB_SCHEMA).map_err(|stopped| stopped.failure)
    }

    /// Parses a job from the ledger.
    ///
    /// # Errors
    /// An incompatible build wrote it.
    pub fn from_ledger(message: &str) -> Result<Self, Failure> {
        Self::read(message.as_bytes())
    }
}
