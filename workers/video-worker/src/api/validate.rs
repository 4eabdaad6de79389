//! Validation of jobs.

use std::collections::HashSet;

use flamingo::Task;
use flamingo::few_shot::SupportSet;
use flamingo::prompt::Prompt;
use flamingo::task::Classification;
use flamingo::video::FrameSampling;
use inference::shot_options::ShotOptions;
use jobs::message::MAX_MESSAGE;
use jobs::time::RequestTime;
use jobs::{Failure, ItemId};

use super::glob::InputGlob;
use super::task::{ClassifyOutputs, output_labels};
use super::{FewShot, Input, JobMessage, JobTask, SupportSource, json, longest_key};
use crate::inputs::Location;

/// Reserve for fields that are added to a job later: its id.
const RESERVE: usize = 1024;
const MAX_TEXT_BYTES: usize = 8192;
/// Bytes of all tasks together: every item of a job carries a copy.
const MAX_TASKS_BYTES: usize = 64 << 10;
const MAX_TASKS: usize = 64;
const MAX_FRAMES: usize = 4096;
const MAX_METADATA: usize = 16;
const MAX_NAME_BYTES: usize = 512;
/// Maximum bytes of a key in S3.
const MAX_KEY_BYTES: usize = 1024;
/// Maximum bytes of a queue's name in AMQP.
const MAX_QUEUE_NAME_BYTES: usize = 255;
/// Maximum sampling rate, above that of any camera.
const MAX_FPS: f64 = 10_000.0;

impl JobMessage {
    /// Validates everything that needs no access to the inputs.
    pub fn check(&self) -> Result<(), Failure> {
        let bad = |text: String| Err(Failure::new("bad_request", text));
        if self.job_id.is_none() && self.idempotency_key.is_none() {
            return bad("a job needs a `job_id` or an `idempotency_key`".into());
        }
        self.check_texts()?;
        self.check_output()?;
        if self.spec.window.is_some_and(|s| !(s.is_finite() && s >= 0.001)) {
            return bad("`window` is shorter than a millisecond".into());
        }
        if !(1..=MAX_FRAMES).contains(&self.spec.max_frames) {
            return bad(format!("`max_frames` is not within 1 to {MAX_FRAMES}"));
        }
        if let (Some(begin), Some(end)) = (self.not_before, self.deadline)
            && is_never(begin, end)
        {
            return bad(format!("`deadline` {end} is not after `not_before` {begin}"));
        }
        check_rate(&self.spec.sampling)?;
        self.spec.sampling.check().map_err(|e| Failure::new("bad_request", e.to_string()))?;
        self.spec.generation.check().map_err(|e| Failure::new("bad_request", e.to_string()))?;
        check_tasks(&self.spec.tasks)?;
        self.check_few_shot()?;
        self.input.check()?;
        // The limit applies to the form that the ledger keeps: `submit` must not accept what no worker reads.
        let bytes = json(self).len();
        if bytes > MAX_MESSAGE - RESERVE {
            let allowed = MAX_MESSAGE - RESERVE;
            let text = format!(
                "the job has {bytes} bytes, {allowed} are allowed; put many videos into a manifest, and many examples into a \
                 stored support set"
            );
            return Err(Failure::new("message_too_large", text));
        }
        Ok(())
    }
}

/// Returns whether no time is between the two. A point in time and a duration are compared by the ledger alone: such a job
/// may expire before it begins.
fn is_never(begin: RequestTime, end: RequestTime) -> bool {
    match (begin, end) {
        (RequestTime::At(begin), RequestTime::At(end)) => begin >= end,
        (RequestTime::AfterAcceptance(begin), RequestTime::AfterAcceptance(end)) => begin >= end,
        (RequestTime::At(_), RequestTime::AfterAcceptance(_))
        | (RequestTime::AfterAcceptance(_), RequestTime::At(_)) => false,
    }
}

impl JobMessage {
    fn check_texts(&self) -> Result<(), Failure> {
        let bad = |text: String| Err(Failure::new("bad_request", text));
        let strings = self.metadata.iter().flat_map(|(k, v)| [("metadata", k), ("metadata", v)]);
        let optional = [
            ("idempotency_key", &self.idempotency_key, MAX_NAME_BYTES),
            ("reply_to", &self.reply_to, MAX_QUEUE_NAME_BYTES),
            ("correlation_id", &self.correlation_id, MAX_NAME_BYTES),
            ("model", &self.model, MAX_NAME_BYTES),
        ];
        let strings = strings.map(|(name, s)| (name, s, MAX_NAME_BYTES));
        let strings =
            strings.chain(optional.into_iter().filter_map(|(name, s, max)| Some((name, s.as_ref()?, max))));
        let invalid = |s: &String, max| s.is_empty() || s.len() > max || s.chars().any(char::is_control);
        if let Some((name, _, max)) = { strings }.find(|(_, s, max)| invalid(s, *max)) {
            return bad(format!(
                "`{name}` is empty, longer than {max} bytes, or contains control characters"
            ));
        }
        if self.metadata.len() > MAX_METADATA {
            return bad(format!("`metadata` has more than {MAX_METADATA} entries"));
        }
        Ok(())
    }

    /// Checks the examples and the labels that depend on them. Those of a stored support set are known when it is read.
    fn check_few_shot(&self) -> Result<(), Failure> {
        TaskDemands::of(self).check(&self.spec.tasks)?;
        let set = match &self.few_shot {
            Some(_) if self.spec.long => {
                return Err(Failure::new("bad_request", "`long` takes no examples of `few_shot`"));
            }
            Some(few_shot) => match check_support(few_shot)? {
                Some(set) => Some(set),
                None => return Ok(()),
            },
            None => None,
        };
        let labels = output_labels(set.as_ref());
        self.spec.tasks.iter().try_for_each(|task| task.resolve(&labels).map(drop))
    }

    fn check_output(&self) -> Result<(), Failure> {
        let bad = |text: String| Err(Failure::new("bad_request", text));
        if self.output.split('/').any(|part| ItemId::try_from(part.to_owned()).is_err())
            && !self.output.is_empty()
        {
            return bad(format!(
                "`output` {:?} is not a path of plain names such as `team/captions`",
                self.output
            ));
        }
        if longest_key(&self.output, &self.id()?).len() > MAX_KEY_BYTES {
            let text = format!("keys of its results may have more than {MAX_KEY_BYTES} bytes");
            return bad(format!("`output` has {} bytes: {text}", self.output.len()));
        }
        Ok(())
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
                InputGlob::new(glob).map(|_| ())
            }
            Input::UnfinishedOf(_) => Ok(()),
        }
    }
}

/// Checks the number of examples, and those that stand in the job. Returns these.
fn check_support(few_shot: &FewShot<SupportSource>) -> Result<Option<SupportSet>, Failure> {
    let bad = |text: String| Failure::new("bad_request", format!("`few_shot`: {text}"));
    match &few_shot.support {
        SupportSource::Stored(_) => Ok(None),
        SupportSource::Inline(examples) => {
            let set = SupportSet::new(examples.clone()).map_err(|why| bad(why.to_string()))?;
            examples.iter().try_for_each(|example| Location::parse(&example.media).map(drop))?;
            Ok(Some(set))
        }
    }
}

/// Properties of a job that limit its tasks.
#[derive(Debug, Clone, Copy)]
pub struct TaskDemands<'j> {
    /// Number and choice of the few-shot examples before the tasks.
    examples: Option<&'j ShotOptions>,
    /// The answers have a grounding.
    grounded: bool,
    /// The tasks are answered from captions too.
    long: bool,
}

impl<'j> TaskDemands<'j> {
    /// Returns the demands of a job.
    pub(super) fn of(job: &'j JobMessage) -> Self {
        let examples = job.few_shot.as_ref().map(|few_shot| &few_shot.options);
        Self { examples, grounded: job.spec.grounding.is_some(), long: job.spec.long }
    }

    /// Checks that every task meets the demands.
    pub(super) fn check(self, tasks: &[JobTask]) -> Result<(), Failure> {
        let bad = |text: &str| Err(Failure::new("bad_request", text));
        let any =
            |is: fn(&Task) -> bool| tasks.iter().any(|task| matches!(task, JobTask::Given(task) if is(task)));
        if let Some(options) = self.examples {
            let wrong = |text: String| Failure::new("bad_request", format!("`few_shot`: {text}"));
            options.check(tasks.iter().map(JobTask::traits), self.grounded).map_err(wrong)?;
            if any(|task| matches!(task, Task::Complete { .. } | Task::Chat { .. })) {
                return bad(
                    "a free prompt (`complete`) and a conversation (`chat`) take no examples of `few_shot`",
                );
            }
        }
        if self.long && any(|task| task.question().is_none()) {
            return bad("`long` answers questions: the tasks `caption` and `complete` have none");
        }
        Ok(())
    }
}

fn check_rate(sampling: &FrameSampling) -> Result<(), Failure> {
    match sampling {
        FrameSampling::Fps { fps, .. } if *fps > MAX_FPS => {
            let text = format!("`fps` is {fps:e}, and at most {MAX_FPS} frames per second are sampled");
            Err(Failure::new("bad_request", text))
        }
        FrameSampling::Fps { .. } | FrameSampling::Uniform { .. } => Ok(()),
    }
}

pub(super) fn check_tasks(tasks: &[JobTask]) -> Result<(), Failure> {
    let bad = |text: String| Err(Failure::new("bad_request", text));
    if tasks.is_empty() || tasks.len() > MAX_TASKS {
        return bad(format!("a job has between 1 and {MAX_TASKS} tasks"));
    }
    if json(&tasks).len() > MAX_TASKS_BYTES {
        return bad(format!("the tasks have more than {MAX_TASKS_BYTES} bytes together"));
    }
    for task in tasks {
        let texts = match task {
            JobTask::Given(Task::Caption {}) => Vec::new(),
            JobTask::Given(Task::Question { question }) => vec![question],
            JobTask::Given(Task::Classify(Classification { question, text, .. }))
            | JobTask::ClassifyOutputs(ClassifyOutputs { question, text, .. }) => {
                [question].into_iter().chain(text).collect()
            }
            JobTask::Given(Task::Chat { history, message }) => {
                let texts = history.iter().flat_map(|past| [&past.message, &past.reply]);
                texts.chain([message]).collect()
            }
            JobTask::Given(Task::Complete { prompt }) if Prompt::parse(prompt).media() != 1 => {
                return bad("a prompt of a job needs exactly one `<video>` marker".into());
            }
            JobTask::Given(Task::Complete { prompt }) => vec![prompt],
        };
        for text in texts {
            // Neither a tokenizer nor a database takes it.
            if text.contains('\0') {
                return bad("a question or prompt contains the character U+0000".into());
            }
            if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES {
                return bad(format!("a question or prompt is empty or longer than {MAX_TEXT_BYTES} bytes"));
            }
        }
    }
    Ok(())
}
