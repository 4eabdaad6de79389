//! Messages of the queue: jobs as clients send them, items as workers create them. Versioned JSON, untrusted until parsed.

use std::collections::{BTreeMap, HashSet};

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::prompt::Prompt;
use flamingo::video::FrameSampling;
use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;
use jobs::job::NewJob;
use jobs::queue::Message;
use jobs::trace::TraceContext;
use jobs::worker::Refusal;
use jobs::{Failure, ItemId, JobId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::location::Location;

#[cfg(test)]
mod tests;

pub const JOB_SCHEMA: &str = "flamingo.job/1";
pub const ITEM_SCHEMA: &str = "flamingo.item/1";

/// Largest message in bytes; long lists of videos go into manifests.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Reserve for fields that are added to a job later: its id.
const RESERVE: usize = 1024;
const MAX_TEXT_BYTES: usize = 8192;
/// Bytes of all tasks together: every item of a job carries a copy.
const MAX_TASKS_BYTES: usize = 64 << 10;
const MAX_TASKS: usize = 64;
const MAX_FRAMES: usize = 4096;
const MAX_METADATA: usize = 16;

/// A job as a client sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobMessage {
    pub schema: String,
    /// Id of the job; may be left out if there is a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Two requests with the same key and the same content are one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Tasks for each video.
    pub tasks: Vec<Task>,
    pub input: Input,
    #[serde(default)]
    pub sampling: FrameSampling,
    /// Seconds of each window with answers of its own; without it the whole video is one window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<f64>,
    #[serde(default = "default_frames")]
    pub max_frames: usize,
    #[serde(default)]
    pub generation: Generation,
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
    pub not_before: Option<Timestamp>,
    /// The job is ended at this time; finished items stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Queue for the end event; the message property of this name serves too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// Priority of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    #[default]
    Normal,
    /// For interactive use: every worker has separate slots for urgent videos.
    Urgent,
}

impl Priority {
    fn is_normal(&self) -> bool {
        *self == Priority::Normal
    }
}

fn default_frames() -> usize {
    64
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
    /// A JSONL file of [`ManifestLine`]s.
    Manifest(String),
    /// Failed and cancelled items of a finished job, each with the tasks it had there.
    UnfinishedOf(JobId),
}

fn every_file() -> String {
    "**".into()
}

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
    pub tasks: Option<Vec<Task>>,
}

/// An item: one video with all of its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemMessage {
    pub schema: String,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    pub video: String,
    /// ETag of the listed version; another version is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    pub tasks: Vec<Task>,
    pub sampling: FrameSampling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<f64>,
    pub max_frames: usize,
    pub generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// Reply properties that are read even from a message that is rejected.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplyProperties {
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
}

/// Parses a message of one schema.
fn parse<T: DeserializeOwned>(body: &[u8], schema: &str) -> Result<T, Refusal> {
    let permanent = |code: &str, text: String| Refusal::Hopeless(Failure::new(code, text));
    if body.len() > MAX_MESSAGE_BYTES {
        let text = format!("the message has {} bytes, {MAX_MESSAGE_BYTES} are allowed", body.len());
        return Err(permanent("message_too_large", text));
    }
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let malformed =
        |e: serde_json::Error| permanent("malformed_message", format!("not a valid {schema} message: {e}"));
    let head: Head = serde_json::from_slice(body).map_err(malformed)?;
    if head.schema != schema {
        let found: String = head.schema.chars().take(60).collect();
        let text = format!("schema {found:?}, this build reads {schema:?}");
        return Err(if is_newer(&found, schema) {
            Refusal::Newer(Failure::new("newer_schema", text))
        } else {
            permanent("unknown_schema", text)
        });
    }
    serde_json::from_slice(body).map_err(malformed)
}

/// Whether the schema is ours in a higher version: during a rolling upgrade a newer build will read it.
fn is_newer(found: &str, ours: &str) -> bool {
    let version = |schema: &str| {
        let (name, version) = schema.rsplit_once('/')?;
        Some((name.to_owned(), version.parse::<u32>().ok()?))
    };
    matches!((version(found), version(ours)), (Some((a, n)), Some((b, m))) if a == b && n > m)
}

impl JobMessage {
    /// Parses and validates a job message; message properties fill fields that the body leaves out.
    pub fn parse(message: &Message) -> Result<Self, Refusal> {
        let mut job: Self = parse(&message.body, JOB_SCHEMA)?;
        job.reply_to = job.reply_to.or_else(|| message.reply_to.clone());
        job.correlation_id = job.correlation_id.or_else(|| message.correlation_id.clone());
        job.check().map_err(Refusal::Hopeless)?;
        Ok(job)
    }

    /// Validates everything that needs no access to the inputs.
    pub fn check(&self) -> Result<(), Failure> {
        let bad = |text: String| Err(Failure::new("bad_request", text));
        if self.job_id.is_none() && self.idempotency_key.is_none() {
            return bad("a job needs a `job_id` or an `idempotency_key`".into());
        }
        let strings = self.metadata.iter().flat_map(|(k, v)| [("metadata", k), ("metadata", v)]);
        let optional = [
            ("idempotency_key", &self.idempotency_key),
            ("reply_to", &self.reply_to),
            ("correlation_id", &self.correlation_id),
            ("model", &self.model),
        ];
        let strings = strings.chain(optional.into_iter().filter_map(|(name, s)| Some((name, s.as_ref()?))));
        let invalid = |s: &String| s.is_empty() || s.len() > 512 || s.chars().any(char::is_control);
        if let Some((name, _)) = { strings }.find(|(_, s)| invalid(s)) {
            return bad(format!("`{name}` is empty, longer than 512 bytes, or contains control characters"));
        }
        if self.metadata.len() > MAX_METADATA {
            return bad(format!("`metadata` has more than {MAX_METADATA} entries"));
        }
        if self.output.split('/').any(|part| ItemId::try_from(part.to_owned()).is_err())
            && !self.output.is_empty()
        {
            return bad(format!(
                "`output` {:?} is not a path of plain names such as `team/captions`",
                self.output
            ));
        }
        if self.window.is_some_and(|s| !(s.is_finite() && s >= 0.001)) {
            return bad("`window` is shorter than a millisecond".into());
        }
        if !(1..=MAX_FRAMES).contains(&self.max_frames) {
            return bad(format!("`max_frames` is not within 1 to {MAX_FRAMES}"));
        }
        if let (Some(begin), Some(end)) = (self.not_before, self.deadline)
            && begin >= end
        {
            return bad(format!("`deadline` {end} is not after `not_before` {begin}"));
        }
        self.sampling.check().map_err(|e| Failure::new("bad_request", e.to_string()))?;
        self.generation.check().map_err(|e| Failure::new("bad_request", e.to_string()))?;
        check_tasks(&self.tasks)?;
        self.input.check()?;
        // The limit applies to the form that the ledger keeps: `submit` must not accept what no worker reads.
        let bytes = json(self).len();
        if bytes > MAX_MESSAGE_BYTES - RESERVE {
            let allowed = MAX_MESSAGE_BYTES - RESERVE;
            let text =
                format!("the job has {bytes} bytes, {allowed} are allowed; put many videos into a manifest");
            return Err(Failure::new("message_too_large", text));
        }
        Ok(())
    }

    /// Returns the id of the job in the ledger.
    fn id(&self) -> Result<JobId, Failure> {
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
        let request = Self {
            job_id: None,
            idempotency_key: None,
            reply_to: None,
            correlation_id: None,
            not_before: None,
            deadline: None,
            priority: Priority::Normal,
            ..self.clone()
        };
        let named = Self { job_id: Some(id.clone()), ..self.clone() };
        Ok(NewJob {
            id,
            key,
            request_sha256: sha256(json(&request).as_bytes()),
            message: json(&named),
            not_before: self.not_before.map(Timestamp::as_millisecond),
            deadline: self.deadline.map(Timestamp::as_millisecond),
            trace: TraceContext::current(),
        })
    }

    /// Parses a job without a surrounding message; call [`check`](Self::check) on the result.
    ///
    /// # Errors
    /// It is malformed, or of another version.
    pub fn read(text: &[u8]) -> Result<Self, Failure> {
        parse(text, JOB_SCHEMA).map_err(|refusal| match refusal {
            Refusal::Hopeless(why) | Refusal::Newer(why) => why,
        })
    }

    /// Parses a job from the ledger.
    ///
    /// # Errors
    /// An incompatible build wrote it.
    pub fn from_ledger(message: &str) -> Result<Self, Failure> {
        Self::read(message.as_bytes())
    }

    /// Creates an item of the job.
    pub fn item(&self, job_id: &JobId, item_id: ItemId, video: String) -> ItemMessage {
        ItemMessage {
            schema: ITEM_SCHEMA.into(),
            job_id: job_id.clone(),
            item_id,
            custom_id: None,
            video,
            etag: None,
            tasks: self.tasks.clone(),
            sampling: self.sampling.clone(),
            window: self.window,
            max_frames: self.max_frames,
            generation: self.generation.clone(),
            model: self.model.clone(),
            priority: self.priority,
            output: self.output.clone(),
        }
    }
}

impl Input {
    fn check(&self) -> Result<(), Failure> {
        let bad = |text: &str| Err(Failure::new("bad_request", text));
        match self {
            Input::Video(url) | Input::Manifest(url) => Location::parse(url).map(|_| ()),
            Input::Videos(urls) if urls.is_empty() => bad("`videos` is empty"),
            Input::Videos(urls) => {
                let mut unique = HashSet::new();
                if let Some(url) = urls.iter().find(|url| !unique.insert(*url)) {
                    return bad(&format!(
                        "{url:?} is listed twice; put several questions about it into `tasks`"
                    ));
                }
                urls.iter().try_for_each(|url| Location::parse(url).map(|_| ()))
            }
            Input::Prefix { url, glob } => {
                Location::parse(url)?;
                matcher(glob).map(|_| ())
            }
            Input::UnfinishedOf(_) => Ok(()),
        }
    }
}

impl ManifestLine {
    /// Returns the tasks of this line; `None` means those of the job.
    ///
    /// # Errors
    /// It has an empty list of tasks, or both a question and tasks.
    pub fn tasks(&self) -> Result<Option<Vec<Task>>, Failure> {
        let tasks = match (&self.question, &self.tasks) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("bad_manifest", "both `question` and `tasks`"));
            }
            (Some(question), None) => vec![Task::Question { question: question.clone() }],
            (None, Some(tasks)) => tasks.clone(),
            (None, None) => return Ok(None),
        };
        check_tasks(&tasks)?;
        Ok(Some(tasks))
    }
}

impl ItemMessage {
    /// Parses an item message.
    pub fn parse(message: &Message) -> Result<Self, Refusal> {
        parse(&message.body, ITEM_SCHEMA)
    }

    /// Reads only the priority of an item from the ledger.
    pub fn priority_of(message: &str) -> Priority {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            priority: Priority,
        }
        serde_json::from_str(message).map_or(Priority::Normal, |head: Head| head.priority)
    }
}

fn check_tasks(tasks: &[Task]) -> Result<(), Failure> {
    let bad = |text: String| Err(Failure::new("bad_request", text));
    if tasks.is_empty() || tasks.len() > MAX_TASKS {
        return bad(format!("a job has between 1 and {MAX_TASKS} tasks"));
    }
    if json(&tasks).len() > MAX_TASKS_BYTES {
        return bad(format!("the tasks have more than {MAX_TASKS_BYTES} bytes together"));
    }
    for task in tasks {
        let text = match task {
            Task::Caption {} => continue,
            Task::Question { question } => question,
            Task::Complete { prompt } if Prompt::parse(prompt).media() != 1 => {
                return bad("a prompt of a job needs exactly one `<video>` marker".into());
            }
            Task::Complete { prompt } => prompt,
        };
        if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES {
            return bad(format!("a question or prompt is empty or longer than {MAX_TEXT_BYTES} bytes"));
        }
    }
    Ok(())
}

/// Compiles a glob: `*` does not cross folders, `**` does.
pub fn matcher(glob: &str) -> Result<GlobMatcher, Failure> {
    let glob = GlobBuilder::new(glob).literal_separator(true).build();
    Ok(glob.map_err(|e| Failure::new("bad_request", e.to_string()))?.compile_matcher())
}

/// Returns the SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Serializes our own types, which cannot fail: their keys are strings.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a message serializes")
}
