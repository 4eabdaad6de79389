//! `flamingo jobs cancel | retry | dead`: what an operator changes.

use anyhow::bail;
use clap::{Args, Subcommand};
use jobs::job::{EarlyEnd, JobState, now};
use jobs::ledger::JobRecord;
use jobs::queue::{DeadLetter, Lane, Message, Settled};
use jobs::{Failure, JobId};
use serde_json::{Value, json};
use video_worker::api::{Input, JOB_SCHEMA, JobMessage};
use video_worker::app::Backends;
use video_worker::jobs::dead_letters::{lane_name, letter_name, redrive_letter};

use super::submit::{Sent, send};
use super::{SettingsArgs, find};
use crate::args::BadUse;
use crate::output::{say, shown};

#[derive(Debug, Args)]
pub struct Cancel {
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Retry {
    #[arg(value_name = "JOB")]
    job: String,
    /// What the new job is called; `JOB.retry` by default.
    #[arg(long = "as", value_name = "ID")]
    name: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
pub enum Dead {
    /// Which messages, and why.
    List(Look),
    /// Send them once more to where they were: only what nobody could read or deliver; a video that failed is tried again
    /// with `jobs retry`.
    Redrive(Settle),
    /// Throw them away.
    Drop(Settle),
}

#[derive(Debug, Args)]
pub struct Look {
    /// How many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Print one JSON object per message.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Settle {
    /// The messages, as `list` names them.
    #[arg(value_name = "MESSAGE", required_unless_present = "all")]
    messages: Vec<String>,
    /// All of them.
    #[arg(long, conflicts_with = "messages")]
    all: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Dead letters that are asked for at once.
const AT_ONCE: usize = 1000;
/// Dead letters that one command settles: each is in memory.
const MOST: usize = 10_000;

async fn open(settings: &SettingsArgs) -> anyhow::Result<(Backends, bool)> {
    let (settings, _) = settings.load(&[])?;
    let backends = Backends::open(&settings).await?;
    Ok((backends, settings.is_remote()))
}

impl Cancel {
    pub(super) async fn run(self) -> anyhow::Result<bool> {
        let (backends, remote) = open(&self.settings).await?;
        backends.ledger.check().await?;
        let mut all_well = true;
        for name in &self.jobs {
            let record = find(&backends.ledger, name).await?;
            if backends.ledger.end_early(&record.id, EarlyEnd::Cancelled, now()).await? && remote {
                ring(&backends, record).await;
            }
            // Now, or by somebody else.
            let record = find(&backends.ledger, name).await?;
            let early = record.failure.as_ref().and_then(|why| EarlyEnd::of(&why.code));
            match (early, record.state) {
                (Some(EarlyEnd::Cancelled), JobState::Cancelled) => {
                    say(&format!("{}  is cancelled", record.id))?
                }
                (Some(EarlyEnd::Cancelled), _) => say(&format!("{}  is being cancelled", record.id))?,
                (_, state) => {
                    let state = state.as_str();
                    eprintln!("error[too_late]: {}: is {state}: there is nothing to cancel", record.id);
                    all_well = false;
                }
            }
        }
        Ok(all_well)
    }
}

/// So that its results are gathered now, not at the next sweep.
async fn ring(backends: &Backends, JobRecord { id, message, trace, .. }: JobRecord) {
    let message = Message { trace, ..Message::new(id.to_string(), JOB_SCHEMA, message) };
    if let Err(error) = backends.queue.send(Lane::Jobs, &message).await {
        eprintln!("warning: {id}: entered, but its message was not sent; a worker will find it: {error}");
    }
}

impl Retry {
    pub(super) async fn run(self) -> anyhow::Result<bool> {
        let (backends, remote) = open(&self.settings).await?;
        backends.ledger.check().await?;
        let record = find(&backends.ledger, &self.job).await?;
        if !record.state.is_end() {
            bail!("{}: is {}: cancel it, or wait for its end", record.id, record.state.as_str());
        }
        if !record.is_listed() {
            bail!(
                "{}: ended before all of its inputs were known: submit it anew, under another name",
                record.id
            );
        }
        let counts = backends.ledger.counts(&record.id).await?;
        if counts.failed + counts.cancelled == 0 {
            bail!("{}: nothing failed and nothing was cancelled", record.id);
        }
        let name = self.name.unwrap_or_else(|| format!("{}.retry", record.id));
        let job = JobMessage {
            job_id: Some(JobId::try_from(name).map_err(|why| BadUse(why.message))?),
            idempotency_key: None,
            input: Input::UnfinishedOf(record.id.clone()),
            not_before: None,
            deadline: None,
            ..JobMessage::from_ledger(&record.message)?
        };
        if !remote {
            let line = video_worker::api::json(&job);
            bail!(BadUse(format!(
                "queue.url is memory://, where nobody waits for jobs: put this line into a file for `flamingo run`: {line}"
            )));
        }
        match send(&backends, &job).await? {
            Sent::Refused(why) => Err(why.into()),
            Sent::As { id, new: true } => {
                say(id.as_str())?;
                Ok(true)
            }
            Sent::As { id, new: false } => {
                let state = find(&backends.ledger, id.as_str()).await?.state;
                bail!(
                    "{id}: was begun before and is {}: retry that one, or name another with --as",
                    state.as_str()
                )
            }
        }
    }
}

impl Dead {
    pub(super) async fn run(self) -> anyhow::Result<bool> {
        match self {
            Dead::List(look) => look.run().await,
            Dead::Redrive(settle) => settle.run(true).await,
            Dead::Drop(settle) => settle.run(false).await,
        }
    }
}

async fn letters(settings: &SettingsArgs, limit: usize) -> anyhow::Result<(Backends, Vec<DeadLetter>)> {
    let (backends, remote) = open(settings).await?;
    if !remote {
        bail!(BadUse("queue.url is memory://, which keeps no dead letters: name the workers' queue".into()));
    }
    let letters = backends.queue.dead_letters(limit).await?;
    Ok((backends, letters))
}

impl Look {
    async fn run(self) -> anyhow::Result<bool> {
        let (_, letters) = letters(&self.settings, self.limit).await?;
        for letter in &letters {
            if self.json {
                say(&letter_json(letter).to_string())?;
            } else {
                let Failure { code, message } = &letter.why;
                say(&format!(
                    "{:<44} {:<6} {code}: {}",
                    letter_name(letter),
                    lane_name(letter),
                    shown(message)
                ))?;
            }
        }
        Ok(true)
    }
}

fn letter_json(letter: &DeadLetter) -> Value {
    let message = &letter.delivery.message;
    json!({
        "message": letter_name(letter),
        "lane": letter.lane.map(Lane::as_str),
        "kind": message.kind,
        "bytes": message.body.len(),
        "error": letter.why,
    })
}

impl Settle {
    async fn run(self, redrive: bool) -> anyhow::Result<bool> {
        // All of them before the first is sent: what dies again at once would be found, and sent, for ever.
        let (backends, mut letters) = letters(&self.settings, AT_ONCE).await?;
        let mut found = letters.len();
        while found > 0 && letters.len() < MOST {
            let more = backends.queue.dead_letters(AT_ONCE).await?;
            found = more.len();
            letters.extend(more);
        }
        if found > 0 {
            eprintln!(
                "warning: these are the oldest {} dead letters; run it again for the others",
                letters.len()
            );
        }
        let mut missing = self.messages.clone();
        let mut all_well = true;
        for letter in letters {
            let name = letter_name(&letter);
            if !self.all && !self.messages.contains(&name) {
                continue;
            }
            missing.retain(|wanted| *wanted != name);
            if redrive && let Some(why) = redrive_letter(&backends, &letter).await? {
                eprintln!("error[not_sent]: {name}: {why}");
                all_well = false;
                continue;
            }
            match letter.delivery.ack().await {
                Settled::Known => {
                    say(&format!("{name}  {}", if redrive { "sent once more" } else { "dropped" }))?
                }
                Settled::Lost => {
                    eprintln!(
                        "error[not_dropped]: {name}: the connection was lost: it is a dead letter still"
                    );
                    all_well = false;
                }
            }
        }
        for name in &missing {
            eprintln!("error[not_found]: {name}: no such dead letter");
        }
        Ok(all_well && missing.is_empty())
    }
}
