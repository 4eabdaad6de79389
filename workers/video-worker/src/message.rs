//! What stands in the queue: jobs as people send them, items as a worker makes them. JSON, versioned, hostile until parsed.

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

/// Bytes of a message; long lists of videos are manifests.
pub const LONGEST_MESSAGE: usize = 1 << 20;
/// For what is added to a job on its way: a name.
const ROOM: usize = 1024;
const LONGEST_TEXT: usize = 8192;
/// Of all tasks together: every item of a job has a copy.
const LONGEST_TASKS: usize = 64 << 10;
const MOST_TASKS: usize = 64;
const MOST_FRAMES: usize = 4096;
const MOST_METADATA: usize = 16;

/// A job as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobMessage {
    pub schema: String,
    /// What the job is called; may be left out if there is a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The same key and the same request are the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What each video is asked.
    pub tasks: Vec<Task>,
    pub input: Input,
    #[serde(default)]
    pub sampling: FrameSampling,
    /// Seconds of each window that has answers of its own; the whole video is one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<f64>,
    #[serde(default = "default_frames")]
    pub max_frames: usize,
    #[serde(default)]
    pub generation: Generation,
    /// The model that must answer; any without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Folders below the worker's store; the job's own folder is made in them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Not to be begun before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Ended at this moment when it has not ended by itself; what is done stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The queue that is told how it ended; the message property of this name serves too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// What a job may go before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    #[default]
    Normal,
    /// Somebody waits for it: its videos have slots of their own in every worker.
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
    /// Everything below a prefix whose path from there matches a glob.
    Prefix {
        url: String,
        #[serde(default = "every_file")]
        glob: String,
    },
    /// A JSONL file of [`ManifestLine`]s.
    Manifest(String),
    /// What has failed or was cancelled in a job that has ended: the same videos, each with what it was asked.
    UnfinishedOf(JobId),
}

fn every_file() -> String {
    "**".into()
}

/// A line of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestLine {
    /// What its result is called by; unique in its manifest.
    pub custom_id: String,
    pub video: String,
    /// Asked of this video instead of the job's tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<Task>>,
}

/// An item: one video with everything that is asked of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemMessage {
    pub schema: String,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    pub video: String,
    /// The version of the video that was listed; another one is refused.
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

/// All that a message which cannot be taken is read for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asker {
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
}

/// Reads a message of one schema.
fn parse<T: DeserializeOwned>(body: &[u8], schema: &str) -> Result<T, Refusal> {
    let hopeless = |code: &str, text: String| Refusal::Permanent(Failure::new(code, text));
    if body.len() > LONGEST_MESSAGE {
        let text = format!("the message has {} bytes, {LONGEST_MESSAGE} are allowed", body.len());
        return Err(hopeless("message_too_large", text));
    }
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let malformed = |e: serde_json::Error| hopeless("malformed_message", format!("no {schema} message: {e}"));
    let head: Head = serde_json::from_slice(body).map_err(malformed)?;
    if head.schema != schema {
        let found: String = head.schema.chars().take(60).collect();
        let text = format!("schema {found:?}, this build reads {schema:?}");
        return Err(if is_newer(&found, schema) {
            Refusal::NewerSchema(Failure::new("newer_schema", text))
        } else {
            hopeless("unknown_schema", text)
        });
    }
    serde_json::from_slice(body).map_err(malformed)
}

/// The same schema in a version above ours: a newer build will be started soon.
fn is_newer(found: &str, ours: &str) -> bool {
    let version = |schema: &str| {
        let (name, version) = schema.rsplit_once('/')?;
        Some((name.to_owned(), version.parse::<u32>().ok()?))
    };
    matches!((version(found), version(ours)), (Some((a, n)), Some((b, m))) if a == b && n > m)
}

impl JobMessage {
    /// Reads and checks a message about a job; properties of the message fill what its body leaves out.
    pub fn parse(message: &Message) -> Result<Self, Refusal> {
        let mut job: Self = parse(&message.body, JOB_SCHEMA)?;
        job.reply_to = job.reply_to.or_else(|| message.reply_to.clone());
        job.correlation_id = job.correlation_id.or_else(|| message.correlation_id.clone());
        job.check().map_err(Refusal::Permanent)?;
        Ok(job)
    }

    /// What can be known to be wrong without looking at any video.
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
        let odd = |s: &String| s.is_empty() || s.len() > 512 || s.chars().any(char::is_control);
        if let Some((name, _)) = { strings }.find(|(_, s)| odd(s)) {
            return bad(format!(
                "`{name}` has a text that is empty, longer than 512 bytes or has control characters"
            ));
        }
        if self.metadata.len() > MOST_METADATA {
            return bad(format!("more than {MOST_METADATA} entries of metadata"));
        }
        if self.output.split('/').any(|part| ItemId::try_from(part.to_owned()).is_err())
            && !self.output.is_empty()
        {
            return bad(format!(
                "output {:?} is no path of plain names such as `team/captions`",
                self.output
            ));
        }
        if self.window.is_some_and(|s| !(s.is_finite() && s >= 0.001)) {
            return bad("`window` is shorter than a millisecond".into());
        }
        if !(1..=MOST_FRAMES).contains(&self.max_frames) {
            return bad(format!("`max_frames` is not within 1 to {MOST_FRAMES}"));
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
        // As the ledger keeps it and workers pass it on; `submit` must not promise what no worker takes.
        let bytes = json(self).len();
        if bytes > LONGEST_MESSAGE - ROOM {
            let allowed = LONGEST_MESSAGE - ROOM;
            let text =
                format!("the job has {bytes} bytes, {allowed} are allowed: name many videos in a manifest");
            return Err(Failure::new("message_too_large", text));
        }
        Ok(())
    }

    /// The name under which it stands in the ledger.
    fn id(&self) -> Result<JobId, Failure> {
        match (&self.job_id, &self.idempotency_key) {
            (Some(id), _) => Ok(id.clone()),
            (None, Some(key)) => JobId::try_from(format!("key-{}", &sha256(key.as_bytes())[..32])),
            (None, None) => {
                Err(Failure::new("bad_request", "a job needs a `job_id` or an `idempotency_key`"))
            }
        }
    }

    /// As the ledger takes it.
    ///
    /// # Errors
    /// It has no identity.
    pub fn to_new(&self) -> Result<NewJob, Failure> {
        let id = self.id()?;
        let key = self.idempotency_key.clone().unwrap_or_else(|| id.to_string());
        let asked = Self {
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
            request_sha256: sha256(json(&asked).as_bytes()),
            message: json(&named),
            not_before: self.not_before.map(Timestamp::as_millisecond),
            deadline: self.deadline.map(Timestamp::as_millisecond),
            trace: TraceContext::current(),
        })
    }

    /// Reads a job that has no message around it; [`check`](Self::check) it then.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn read(text: &[u8]) -> Result<Self, Failure> {
        parse(text, JOB_SCHEMA).map_err(|refusal| match refusal {
            Refusal::Permanent(why) | Refusal::NewerSchema(why) => why,
        })
    }

    /// Reads what the ledger keeps.
    ///
    /// # Errors
    /// It was written by another build.
    pub fn recall(message: &str) -> Result<Self, Failure> {
        Self::read(message.as_bytes())
    }

    /// One of its items.
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
                let mut seen = HashSet::new();
                if let Some(url) = urls.iter().find(|url| !seen.insert(*url)) {
                    return bad(&format!("{url:?} is named twice: ask several questions of it in `tasks`"));
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
    /// What is asked of this video; `None`: what the job asks.
    ///
    /// # Errors
    /// It asks for nothing, or in two ways.
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
    pub fn parse(message: &Message) -> Result<Self, Refusal> {
        parse(&message.body, ITEM_SCHEMA)
    }

    /// The priority of one as the ledger keeps it, whatever else it says.
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
    if tasks.is_empty() || tasks.len() > MOST_TASKS {
        return bad(format!("a job has 1 to {MOST_TASKS} tasks"));
    }
    if json(&tasks).len() > LONGEST_TASKS {
        return bad(format!("the tasks have more than {LONGEST_TASKS} bytes together"));
    }
    for task in tasks {
        let text = match task {
            Task::Caption {} => continue,
            Task::Question { question } => question,
            Task::Complete { prompt } if Prompt::parse(prompt).media() != 1 => {
                return bad("a prompt of a job has exactly one place for a video (`<video>`)".into());
            }
            Task::Complete { prompt } => prompt,
        };
        if text.trim().is_empty() || text.len() > LONGEST_TEXT {
            return bad(format!("a question or prompt is empty or longer than {LONGEST_TEXT} bytes"));
        }
    }
    Ok(())
}

/// `*` stays within a folder, `**` does not.
pub fn matcher(glob: &str) -> Result<GlobMatcher, Failure> {
    let glob = GlobBuilder::new(glob).literal_separator(true).build();
    Ok(glob.map_err(|e| Failure::new("bad_request", e.to_string()))?.compile_matcher())
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Our own types always become JSON: their keys are strings.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a message becomes JSON")
}
