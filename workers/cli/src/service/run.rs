//! `flamingo run`: the jobs of a file, with everything in this process and on this disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use jobs::JobId;
use jobs::job::{Counts, ItemState, JobState};
use jobs::ledger::JobRecord;
use jobs::worker::Stop;
use video_worker::api::job_folder;
use video_worker::api::{JobMessage, json, sha256};
use video_worker::app::{Backends, build_worker, check_confinement};
use video_worker::http::health::Status;
use video_worker::settings::Settings;

use super::jobs::all_items;
use super::submit::{Sent, read, send};
use super::work::end_on_signal;
use super::{ModelOver, SettingsArgs, block_on, model_args};
use crate::args::{BadUse, ModelArgs, program};
use crate::output::{progress, say, shown};

#[derive(Debug, Args)]
pub struct Run {
    /// Jobs, one JSON object per line; `-` is standard input.
    #[arg(value_name = "JOBS.jsonl")]
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOver,
}

impl Run {
    pub fn run(self) -> anyhow::Result<bool> {
        let (mut settings, _) = self.settings.load(&self.model.settings())?;
        if settings.is_remote() {
            bail!(BadUse(
                "queue.url is not memory://: send jobs to a shared queue with `flamingo submit`".into()
            ));
        }
        let jobs = read(&self.file, named)?;
        // In a queue that dies with its process nothing else tells that a process is gone.
        settings.worker.lease = settings.worker.lease.min(Duration::from_secs(10));
        settings.worker.heartbeat = settings.worker.heartbeat.min(Duration::from_secs(3));
        let model = model_args(&settings)?;
        model.device.settle_threads()?;
        block_on(run(settings, model, jobs))
    }
}

/// A job without a name is called by what it asks, so that the same file, run again, goes on where it was interrupted.
fn named(mut job: JobMessage) -> JobMessage {
    if job.job_id.is_none() && job.idempotency_key.is_none() {
        let id = format!("run-{}", &sha256(json(&job).as_bytes())[..16]);
        job.job_id = JobId::try_from(id).ok();
    }
    job
}

async fn run(settings: Settings, model: ModelArgs, jobs: Vec<JobMessage>) -> anyhow::Result<bool> {
    check_confinement(&settings, &program()?)?;
    let backends = Backends::open(&settings).await?;
    backends.ledger.migrate().await?;
    backends.wait(&settings).await?;
    let mut ids = Vec::new();
    for job in &jobs {
        match send(&backends, job).await? {
            Sent::As { id, .. } => ids.push(id),
            Sent::Refused(why) => bail!("{why}"),
        }
    }
    let stop = Stop::default();
    if !all_ended(&backends, &ids).await?.0 {
        let status = Arc::new(Status::default());
        let signalled = tokio::spawn(end_on_signal(stop.clone(), status.clone())?);
        let pipeline = tokio::task::spawn_blocking(move || model.load_to_answer()).await??;
        let working = build_worker(&settings, &backends, pipeline, program()?, status, stop.clone())?.run();
        let watching = watch(&backends, &ids, &stop);
        let (worked, watched) = tokio::join!(working, watching);
        signalled.abort();
        worked?;
        watched?;
    }
    if stop.is_draining() && !all_ended(&backends, &ids).await?.0 {
        eprintln!("interrupted: the same command goes on from here");
    }
    report(&backends, &ids).await
}

/// Until every job has ended, or the worker is told to.
async fn watch(backends: &Backends, ids: &[JobId], stop: &Stop) -> anyhow::Result<()> {
    let bar = progress(0);
    let result = loop {
        let (ended, counts) = match all_ended(backends, ids).await {
            Ok(seen) => seen,
            Err(error) => break Err(error),
        };
        bar.set_length(counts.total);
        bar.set_position(counts.succeeded + counts.failed + counts.cancelled);
        if ended {
            break Ok(());
        }
        tokio::select! {
            () = stop.draining() => break Ok(()),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    };
    bar.finish_and_clear();
    stop.drain();
    result
}

async fn all_ended(backends: &Backends, ids: &[JobId]) -> anyhow::Result<(bool, Counts)> {
    let mut sum = Counts::default();
    let mut ended = true;
    for id in ids {
        ended &= backends.ledger.job(id).await?.is_some_and(|job| job.state.is_end());
        let counts = backends.ledger.counts(id).await?;
        sum.total += counts.total;
        sum.succeeded += counts.succeeded;
        sum.failed += counts.failed;
        sum.cancelled += counts.cancelled;
    }
    Ok((ended, sum))
}

/// One line per job, and what failed; whether all of them succeeded.
async fn report(backends: &Backends, ids: &[JobId]) -> anyhow::Result<bool> {
    let mut all_well = true;
    for id in ids {
        let Some(record) = backends.ledger.job(id).await? else { continue };
        let counts = backends.ledger.counts(id).await?;
        let folder = backends.store.url(&job_folder(&JobMessage::from_ledger(&record.message)?.output, id));
        name_failures(backends, &record, &counts).await?;
        let (state, done, total) = (record.state.as_str(), counts.succeeded, counts.total);
        say(&format!("{id}  {state}  {done} of {total} succeeded  {folder}"))?;
        all_well &= record.state == JobState::Succeeded;
    }
    Ok(all_well)
}

/// Failures that are named one by one; `errors.jsonl` has all.
const NAMED: usize = 10;

async fn name_failures(backends: &Backends, record: &JobRecord, counts: &Counts) -> anyhow::Result<()> {
    if let Some(why) = &record.failure {
        eprintln!("error[{}]: {}: {}", why.code, record.id, shown(&why.message));
    }
    let failed = if counts.failed == 0 { vec![] } else { all_items(&backends.ledger, &record.id).await? };
    let failed = failed.iter().filter(|item| item.state == ItemState::Failed);
    for (item, why) in failed.filter_map(|item| Some((item, item.failure.as_ref()?))).take(NAMED) {
        eprintln!("error[{}]: {}/{}: {}", why.code, record.id, item.id, shown(&why.message));
    }
    if counts.failed > NAMED as u64 {
        eprintln!("and {} more: errors.jsonl names them", counts.failed - NAMED as u64);
    }
    Ok(())
}
