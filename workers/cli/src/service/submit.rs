//! `flamingo submit`: jobs into ledger and queue.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::Task;
use jiff::{SignedDuration, Timestamp};
use jobs::job::now;
use jobs::ledger::Accepted;
use jobs::queue::{Lane, Message};
use jobs::{Failure, JobId};
use serde_json::json;
use tracing::{Instrument, info_span};
use video_worker::api::{Input, JOB_SCHEMA, JobMessage, Priority};
use video_worker::app::Backends;

use super::{SettingsArgs, block_on};
use crate::args::{BadUse, GenerationArgs, SamplingArgs, parse_length};
use crate::output::{say, shown};

#[derive(Debug, Args)]
pub struct Submit {
    /// A file of jobs, one JSON object per line; `-` is standard input.
    #[arg(value_name = "JOBS.jsonl", conflicts_with_all = ["input", "question"], required_unless_present = "input")]
    file: Option<PathBuf>,
    #[command(flatten)]
    job: OneJob,
    /// Print one JSON object per job.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A job in words of the command line.
#[derive(Debug, Args)]
#[command(next_help_heading = "One job")]
#[group(id = "input", multiple = true)]
struct OneJob {
    /// A video (`s3://bucket/key`); may be given several times.
    #[arg(long, value_name = "URL", group = "input")]
    video: Vec<String>,
    /// Every video below this prefix (`s3://bucket/folder/`).
    #[arg(long, value_name = "URL", group = "input", conflicts_with = "video")]
    prefix: Option<String>,
    /// Only those whose path from there matches (`**/*.mp4`).
    #[arg(long, value_name = "GLOB", requires = "prefix")]
    glob: Option<String>,
    /// A JSONL file of videos, each with a `custom_id` and perhaps a `question`.
    #[arg(long, value_name = "URL", group = "input", conflicts_with_all = ["video", "prefix"])]
    manifest: Option<String>,
    /// A question about each; without any they are captioned.
    #[arg(long, short, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    question: Vec<String>,
    /// What the job is called; a new name by default.
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// The same key and the same request are the same job.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Folders of the store in which the job's folder is made.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    output: String,
    /// Kept with the job: `--metadata team=birds`.
    #[arg(long, value_name = "NAME=TEXT", value_parser = super::parse_pair)]
    metadata: Vec<(String, String)>,
    /// Not to be begun before: a moment (`2026-12-24T18:00:00Z`), or a time from now (`2h`).
    #[arg(long, value_parser = parse_moment, value_name = "WHEN")]
    not_before: Option<Timestamp>,
    /// To be ended then, done or not; what is done stays.
    #[arg(long, value_parser = parse_moment, value_name = "WHEN")]
    deadline: Option<Timestamp>,
    /// Somebody waits for it: it need not wait for other jobs.
    #[arg(long)]
    urgent: bool,
    /// The queue that is told how it ended.
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// The model that must answer.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Cut each video into windows of this length, each with answers of its own.
    #[arg(long, value_parser = parse_length, value_name = "TIME")]
    window: Option<f64>,
    /// Most frames that one answer may look at.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_frames: usize,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// A moment, or how long it is until then.
fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let wrong =
        || format!("{text:?} is no moment such as 2026-12-24T18:00:00Z and no time such as 90s or 2h");
    let from_now: SignedDuration = text.parse().map_err(|_| wrong())?;
    if from_now.is_negative() {
        return Err(format!("{text:?} has passed"));
    }
    Timestamp::now().checked_add(from_now).map_err(|_| wrong())
}

impl OneJob {
    fn message(&self) -> anyhow::Result<JobMessage> {
        let input = match (&self.prefix, &self.manifest, self.video.as_slice()) {
            (Some(url), ..) => {
                Input::Prefix { url: url.clone(), glob: self.glob.clone().unwrap_or_else(|| "**".into()) }
            }
            (_, Some(url), _) => Input::Manifest(url.clone()),
            (_, _, [url]) => Input::Video(url.clone()),
            (.., urls) => Input::Videos(urls.to_vec()),
        };
        let questions = self.question.iter().map(|q| Task::Question { question: q.clone() });
        let tasks = if self.question.is_empty() { vec![Task::Caption {}] } else { questions.collect() };
        let id = self.job_id.clone().map(JobId::try_from).transpose();
        Ok(JobMessage {
            schema: JOB_SCHEMA.into(),
            job_id: id.map_err(|why| BadUse(why.to_string()))?,
            idempotency_key: self.key.clone(),
            tasks,
            input,
            sampling: self.sampling.sampling()?,
            window: self.window,
            max_frames: self.max_frames,
            generation: self.generation.generation(),
            model: self.model.clone(),
            priority: if self.urgent { Priority::Urgent } else { Priority::Normal },
            output: self.output.clone(),
            not_before: self.not_before,
            deadline: self.deadline,
            metadata: self.metadata.iter().cloned().collect(),
            reply_to: self.reply_to.clone(),
            correlation_id: None,
        })
    }
}

impl Submit {
    pub fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        // Everything that can be wrong is said before anything is sent.
        let jobs = match &self.file {
            Some(file) => read(file, named)?,
            None => {
                let job = named(self.job.message()?);
                job.check().map_err(|why| BadUse(why.message))?;
                vec![job]
            }
        };
        if !settings.is_remote() {
            bail!(BadUse(
                "queue.url is memory://, which only this process would see: name the workers' queue, or do the jobs here with `flamingo run`".into()
            ));
        }
        block_on(async {
            let backends = Backends::open(&settings).await?;
            backends.ledger.check().await?;
            let mut all_well = true;
            for job in &jobs {
                match send(&backends, job).await? {
                    Sent::Refused(why) => {
                        eprintln!("error[{}]: {}", why.code, shown(&why.message));
                        all_well = false;
                    }
                    Sent::As { id, new } if self.json => {
                        say(&json!({ "job_id": id, "new": new }).to_string())?
                    }
                    Sent::As { id, .. } => say(id.as_str())?,
                }
            }
            Ok(all_well)
        })
    }
}

/// What became of a job that was sent.
pub enum Sent {
    /// It stands in the ledger; not new when it was there already.
    As {
        id: JobId,
        new: bool,
    },
    Refused(Failure),
}

/// Enters a job in the ledger, and rings for it.
pub async fn send(backends: &Backends, job: &JobMessage) -> anyhow::Result<Sent> {
    enter(backends, job).instrument(info_span!("submit job")).await
}

async fn enter(backends: &Backends, job: &JobMessage) -> anyhow::Result<Sent> {
    let new = job.to_new()?;
    let (record, is_new) = match backends.ledger.accept(&new, now()).await? {
        Accepted::New(record) => (record, true),
        Accepted::Same(record) => (record, false),
        Accepted::Conflict { existing } => {
            return Ok(Sent::Refused(new.conflict_with(&existing)));
        }
    };
    if !record.state.is_end() {
        let message = Message::new(record.id.to_string(), JOB_SCHEMA, record.message);
        let message = Message { trace: record.trace, ..message };
        // The ledger has it: without a message the workers' sweep finds it.
        if let Err(error) = backends.queue.send(Lane::Jobs, &message).await {
            eprintln!(
                "warning: {}: entered, but its message was not sent; a worker will find it: {error}",
                record.id
            );
        }
    }
    Ok(Sent::As { id: record.id, new: is_new })
}

/// A job with a name of its own.
fn named(mut job: JobMessage) -> JobMessage {
    if job.job_id.is_none() && job.idempotency_key.is_none() {
        job.job_id = Some(JobId::mint());
    }
    job
}

/// Jobs of a file, one JSON object per line, each given a name where it has none, and checked.
pub fn read(file: &Path, named: impl Fn(JobMessage) -> JobMessage) -> anyhow::Result<Vec<JobMessage>> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|e| BadUse(format!("{}: cannot be read: {e}", file.display())))?;
    let mut jobs = Vec::new();
    for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: &str| BadUse(format!("{}, line {n}: {why}", file.display()));
        let job = JobMessage::read(line.as_bytes()).map_err(|why| bad(&why.message))?;
        let job = named(job);
        job.check().map_err(|why| bad(&why.message))?;
        jobs.push(job);
    }
    if jobs.is_empty() {
        bail!(BadUse(format!("{}: no job in it", file.display())));
    }
    Ok(jobs)
}
