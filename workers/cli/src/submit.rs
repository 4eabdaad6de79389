//! `flamingo submit`: enters jobs in the ledger and notifies the workers.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use flamingo::Task;
use inference::analysis::AnalysisSpec;
use jobs::client::{self, Notification};
use jobs::time::RequestTime;
use jobs::{Failure, JobId};
use serde_json::json;
use tracing::{Instrument, info_span};
use video_worker::api::{Input, JOB_SCHEMA, JobMessage, NoUnknownFields, Priority};
use video_worker::app::Backends;
use video_worker::settings::Settings;

use crate::args::{GenerationArgs, SamplingArgs, UsageError, parse_length};
use crate::few_shot::SupportArgs;
use crate::grounding::GroundingArgs;
use crate::output::{print_line, printable};
use crate::settings::{SettingsArgs, block_on, parse_pair};

#[derive(Debug, Args)]
pub struct Submit {
    /// File of jobs, one JSON object per line; `-` is standard input.
    #[arg(value_name = "JOBS.jsonl", conflicts_with_all = ["input", "question"], required_unless_present = "input")]
    file: Option<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
    /// Print one JSON object per job.
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// One job, described by options.
#[derive(Debug, Args)]
#[command(next_help_heading = "One job")]
#[group(id = "input", multiple = true)]
struct JobArgs {
    /// Video (`s3://bucket/key`); repeat the option for several videos.
    #[arg(long, value_name = "URL", group = "input")]
    video: Vec<String>,
    /// All videos below this prefix (`s3://bucket/folder/`).
    #[arg(long, value_name = "URL", group = "input", conflicts_with = "video")]
    prefix: Option<String>,
    /// Only videos whose path below the prefix matches (`**/*.mp4`).
    #[arg(long, value_name = "GLOB", requires = "prefix")]
    glob: Option<String>,
    /// JSONL file of videos, each with a `custom_id` and optionally a `question`.
    #[arg(long, value_name = "URL", group = "input", conflicts_with_all = ["video", "prefix"])]
    manifest: Option<String>,
    /// Question about each video; repeat the option for several. Without questions, videos are captioned.
    #[arg(long, short, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    question: Vec<String>,
    /// Id of the job [default: a new id].
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Idempotency key: the same key and the same request are the same job.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Path in the store below which the folder of the job is created.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    output: String,
    /// Text that is kept with the job: `--metadata team=birds`; repeat the option for several.
    #[arg(long, value_name = "NAME=TEXT", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Earliest start: a point in time (`2026-12-24T18:00:00Z`), or a duration from the job's acceptance (`2h`).
    #[arg(long, value_name = "WHEN")]
    not_before: Option<RequestTime>,
    /// Deadline: the job is ended then, finished or not; finished reports are kept.
    #[arg(long, value_name = "WHEN")]
    deadline: Option<RequestTime>,
    /// Urgent: the job does not wait for other jobs.
    #[arg(long)]
    urgent: bool,
    /// Queue that gets a message when the job has ended.
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// Name of the model that must answer [default: any].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Split each video into windows of this length, with answers per window.
    #[arg(long, value_parser = parse_length, value_name = "TIME")]
    window: Option<f64>,
    /// Maximum number of frames per answer; more are an error.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_frames: usize,
    /// Answer each question from the captions of the windows too, next to one answer over frames of the whole video.
    #[arg(long, requires = "question", conflicts_with = "support")]
    long: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    grounding: GroundingArgs,
    #[command(flatten)]
    support: SupportArgs,
}

impl JobArgs {
    fn message(&self, settings: &Settings) -> anyhow::Result<JobMessage> {
        let input = match (&self.prefix, &self.manifest, self.video.as_slice()) {
            (Some(url), ..) => {
                Input::Prefix { url: url.clone(), glob: self.glob.clone().unwrap_or_else(|| "**".into()) }
            }
            (_, Some(url), _) => Input::Manifest(url.clone()),
            (_, _, [url]) => Input::Video(url.clone()),
            (.., urls) => Input::Videos(urls.to_vec()),
        };
        let questions = self.question.iter().map(|q| Task::Question { question: q.clone() }.into());
        let tasks =
            if self.question.is_empty() { vec![Task::Caption {}.into()] } else { questions.collect() };
        let id = self.job_id.clone().map(JobId::try_from).transpose();
        Ok(JobMessage {
            schema: JOB_SCHEMA.into(),
            job_id: id.map_err(|why| UsageError(why.to_string()))?,
            idempotency_key: self.key.clone(),
            spec: AnalysisSpec {
                tasks,
                sampling: self.sampling.sampling()?,
                window: self.window,
                max_frames: self.max_frames,
                generation: self.generation.generation(),
                long: self.long,
                grounding: self.grounding.spec(),
            },
            input,
            few_shot: self.support.few_shot(settings)?,
            model: self.model.clone(),
            priority: if self.urgent { Priority::Urgent } else { Priority::Normal },
            output: self.output.clone(),
            not_before: self.not_before,
            deadline: self.deadline,
            metadata: self.metadata.iter().cloned().collect(),
            reply_to: self.reply_to.clone(),
            correlation_id: None,
            rest: NoUnknownFields,
        })
    }
}

impl Submit {
    pub fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        // Check every job before the first one is submitted.
        let jobs = match &self.file {
            Some(file) => read(file, with_id)?,
            None => {
                let job = with_id(self.job.message(&settings)?);
                job.check().map_err(|why| UsageError(why.message))?;
                vec![job]
            }
        };
        if !settings.is_remote() {
            bail!(UsageError(
                "queue.url is memory://, which only this process could read: set the URL of the workers' queue, or run the jobs here with `flamingo run`".into()
            ));
        }
        block_on(async {
            let backends = Backends::open(&settings).await?;
            check_store(&backends, &jobs)?;
            backends.ledger.check().await?;
            let mut all_well = true;
            for job in &jobs {
                match submit(&backends, job).await? {
                    Submitted::Refused(why) => {
                        eprintln!("error[{}]: {}", why.code, printable(&why.message));
                        all_well = false;
                    }
                    Submitted::Job { id, new } if self.json => {
                        print_line(&json!({ "job_id": id, "new": new }).to_string())?
                    }
                    Submitted::Job { id, .. } => print_line(id.as_str())?,
                }
            }
            Ok(all_well)
        })
    }
}

/// Result of [`submit`].
pub enum Submitted {
    /// The job is in the ledger; `new` is false when it was there before.
    Job { id: JobId, new: bool },
    /// The job conflicts with another one.
    Refused(Failure),
}

/// Enters a job in the ledger, and sends a job message.
///
/// # Errors
/// The ledger does not answer. A message that cannot be sent is a warning on standard error only.
pub async fn submit(backends: &Backends, job: &JobMessage) -> anyhow::Result<Submitted> {
    submit_job(backends, job).instrument(info_span!("submit job")).await
}

async fn submit_job(backends: &Backends, job: &JobMessage) -> anyhow::Result<Submitted> {
    match backends.client().submit(&job.to_new()?).await? {
        client::Submitted::Conflict(failure) => Ok(Submitted::Refused(failure)),
        client::Submitted::Accepted { record, is_new, notification } => {
            if let Notification::Failed(error) = notification {
                eprintln!(
                    "warning: {}: is in the ledger, but no message was sent; the next sweep of a worker finds it: {error}",
                    record.id
                );
            }
            Ok(Submitted::Job { id: record.id, new: is_new })
        }
    }
}

/// Checks that the store takes the results of every job.
///
/// # Errors
/// [`UsageError`]: keys of the results may be too long.
pub fn check_store(backends: &Backends, jobs: &[JobMessage]) -> Result<(), UsageError> {
    jobs.iter().try_for_each(|job| job.check_store(&backends.store).map_err(|why| UsageError(why.message)))
}

/// Gives a job an id, if it has neither id nor key.
fn with_id(mut job: JobMessage) -> JobMessage {
    if job.job_id.is_none() && job.idempotency_key.is_none() {
        job.job_id = Some(JobId::generate());
    }
    job
}

/// Reads the jobs of a file, one JSON object per line. `with_id` gives an id to jobs without one. Every job is checked.
///
/// # Errors
/// [`UsageError`]: the file cannot be read, has no job, or a job in it is wrong.
pub fn read(file: &Path, with_id: impl Fn(JobMessage) -> JobMessage) -> anyhow::Result<Vec<JobMessage>> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|e| UsageError(format!("{}: cannot be read: {e}", file.display())))?;
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut jobs = Vec::new();
    for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: &str| UsageError(format!("{}, line {n}: {why}", file.display()));
        let job = JobMessage::read(line.as_bytes()).map_err(|why| bad(&why.message))?;
        let job = with_id(job);
        job.check().map_err(|why| bad(&why.message))?;
        jobs.push(job);
    }
    if jobs.is_empty() {
        bail!(UsageError(format!("{}: the file contains no job", file.display())));
    }
    Ok(jobs)
}
