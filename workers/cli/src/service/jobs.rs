//! `flamingo jobs`: what the ledger knows.

use std::time::Duration;

use clap::{Args, Subcommand};
use inference::analysis::human_time;
use inference::progress::Progress;
use jobs::JobId;
use jobs::job::{Counts, JobState, Millis, now, timestamp};
use jobs::ledger::{ItemRecord, JobRecord, Ledger, LedgerSettings};
use serde_json::{Map, Value, json};
use video_worker::jobs::progress::JobProgress;

use super::change::{Cancel, Dead, Retry};
use super::{SettingsArgs, block_on, find};
use crate::output::{say, shown};

#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// The newest jobs.
    List(List),
    /// One job with its items.
    Show(Show),
    /// One job until it has ended.
    Watch(Watch),
    /// End jobs that have not ended: what is done stays, the rest is let go.
    Cancel(Cancel),
    /// Do again what failed or was cancelled in a job, as a job of its own.
    Retry(Retry),
    /// Messages that nobody can or may deliver any more.
    #[command(subcommand)]
    Dead(Dead),
}

#[derive(Debug, Args)]
pub struct List {
    /// How many.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Print one JSON object per job.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Show {
    job: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub struct Watch {
    job: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Rows that are asked for at once.
const ROWS: u32 = 500;

impl Jobs {
    pub fn run(self) -> anyhow::Result<bool> {
        block_on(async {
            match self {
                Jobs::List(command) => command.run().await,
                Jobs::Show(command) => command.run().await,
                Jobs::Watch(command) => command.run().await,
                Jobs::Cancel(command) => command.run().await,
                Jobs::Retry(command) => command.run().await,
                Jobs::Dead(command) => command.run().await,
            }
        })
    }
}

async fn open(settings: &SettingsArgs) -> anyhow::Result<Ledger> {
    let (settings, _) = settings.load(&[])?;
    let ledger = Ledger::open(&settings.database.url, &LedgerSettings::default()).await?;
    ledger.check().await?;
    Ok(ledger)
}

impl List {
    async fn run(self) -> anyhow::Result<bool> {
        let ledger = open(&self.settings).await?;
        let mut before: Option<(Millis, JobId)> = None;
        let mut left = self.limit;
        while left > 0 {
            let page = ledger.jobs(before.as_ref().map(|(at, id)| (*at, id)), left.min(ROWS)).await?;
            let Some(last) = page.last() else { break };
            before = Some((last.accepted_at(), last.id.clone()));
            left -= page.len() as u32;
            for record in page {
                let counts = ledger.counts(&record.id).await?;
                let progress = JobProgress::load(&ledger, &record, &counts, now()).await?;
                if self.json {
                    say(&job_json(&record, &counts, progress).to_string())?;
                } else {
                    say(&job_line(&record, &counts, progress))?;
                }
            }
        }
        Ok(true)
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<bool> {
        let ledger = open(&self.settings).await?;
        let record = find(&ledger, &self.job).await?;
        let counts = ledger.counts(&record.id).await?;
        let items = all_items(&ledger, &record.id).await?;
        let progress = JobProgress::load(&ledger, &record, &counts, now()).await?;
        if self.json {
            let mut value = job_json(&record, &counts, progress);
            value["items"] = items.iter().map(item_json).collect();
            say(&format!("{value:#}"))?;
            return Ok(true);
        }
        say(&job_line(&record, &counts, progress))?;
        for (state, at) in entered(&record) {
            say(&format!("  {:<20} {}", state.as_str(), timestamp(at)))?;
        }
        for item in items {
            let why = item.failure.as_ref().map(|why| format!("{}: {}", why.code, shown(&why.message)));
            let said = item.progress.as_deref().and_then(Progress::read).filter(|_| item.worker.is_some());
            let said = said.map(|p| format!("{} %, {} frames, {} tokens", p.percent, p.frames, p.tokens));
            let note = why.or(said).unwrap_or_default();
            say(&format!("  {:<9} {:<40} {note}", item.state.as_str(), item.id))?;
        }
        Ok(true)
    }
}

impl Watch {
    async fn run(self) -> anyhow::Result<bool> {
        let ledger = open(&self.settings).await?;
        let mut said = String::new();
        loop {
            let record = find(&ledger, &self.job).await?;
            let counts = ledger.counts(&record.id).await?;
            let progress = JobProgress::load(&ledger, &record, &counts, now()).await?;
            let line = job_line(&record, &counts, progress);
            if line != said {
                say(&line)?;
                said = line;
            }
            if record.state.is_end() {
                return Ok(record.state == JobState::Succeeded);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

pub async fn all_items(ledger: &Ledger, id: &JobId) -> anyhow::Result<Vec<ItemRecord>> {
    let mut items: Vec<ItemRecord> = Vec::new();
    loop {
        let page = ledger.items(id, items.last().map(|item| (item.position, &item.id)), ROWS).await?;
        if page.is_empty() {
            return Ok(items);
        }
        items.extend(page);
    }
}

fn entered(record: &JobRecord) -> impl Iterator<Item = (JobState, Millis)> {
    JobState::ALL.into_iter().filter_map(|state| Some((state, record.entered(state)?)))
}

fn job_line(record: &JobRecord, counts: &Counts, progress: Option<JobProgress>) -> String {
    let total = record.total.map_or_else(|| format!("{}+", counts.total), |total| total.to_string());
    let why = record.failure.as_ref().map(|why| format!("  {}: {}", why.code, shown(&why.message)));
    let progress = progress.map(|JobProgress { percent, left_s }| {
        let left = left_s.map(|s| format!(", about {} left", human_time(s))).unwrap_or_default();
        format!("  {percent:.0} %{left}")
    });
    let cancelled = match counts.cancelled {
        0 => String::new(),
        n => format!(", {n} cancelled"),
    };
    format!(
        "{}  {}  {:<20} {} of {total} succeeded, {} failed, {} running{cancelled}{}{}",
        record.id,
        timestamp(record.accepted_at()),
        record.state.as_str(),
        counts.succeeded,
        counts.failed,
        counts.running,
        progress.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

fn job_json(record: &JobRecord, counts: &Counts, progress: Option<JobProgress>) -> Value {
    let states: Map<_, _> =
        entered(record).map(|(state, at)| (format!("{}_at", state.as_str()), json!(timestamp(at)))).collect();
    json!({
        "job_id": record.id,
        "idempotency_key": record.key,
        "status": record.state,
        "states": states,
        "counts": counts,
        "progress": progress,
        "not_before": record.not_before.map(timestamp),
        "deadline": record.deadline.map(timestamp),
        "error": record.failure,
    })
}

fn item_json(item: &ItemRecord) -> Value {
    json!({
        "item_id": item.id,
        "status": item.state,
        "attempts": item.attempts(),
        "workers_lost": item.lost,
        "worker": item.worker,
        "progress": item.progress.as_deref().and_then(Progress::read),
        "ended_at": item.ended_at.map(timestamp),
        "error": item.failure,
    })
}
