//! `flamingo run`: runs the jobs of a file, with queue, worker and results on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use flamingo::digest::sha256;
use jobs::JobId;
use jobs::ledger::JobRecord;
use jobs::state::{Counts, ItemState, JobState};
use jobs::worker::Stop;
use video_worker::api::job_folder;
use video_worker::api::{JobMessage, json};
use video_worker::app::{Backends, build_worker, check_confinement};
use video_worker::http::health::Status;
use video_worker::jobs::expand::skipped;
use video_worker::settings::Settings;

use crate::args::{ModelArgs, UsageError};
use crate::jobs::all_items;
use crate::output::{print_line, printable, progress};
use crate::process::own_executable;
use crate::settings::{ModelOverrides, SettingsArgs, block_on, cache_bytes, model_args};
use crate::submit::{Submitted, check_store, read, submit};
use crate::work::stop_on_signal;

#[derive(Debug, Args)]
pub struct Run {
    /// File of jobs, one JSON object per line; `-` is standard input.
    #[arg(value_name = "JOBS.jsonl")]
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOverrides,
}

impl Run {
    pub fn run(self) -> anyhow::Result<bool> {
        let (mut settings, _) = self.settings.load(&self.model.settings())?;
        if settings.is_remote() {
            bail!(UsageError(
                "queue.url is not memory://: submit jobs to a shared queue with `flamingo submit`".into()
            ));
        }
        let jobs = read(&self.file, with_derived_id)?;
        // The queue ends with its process, so only an expired lease shows that an earlier process is gone.
        settings.worker.lease = settings.worker.lease.min(Duration::from_secs(10));
        settings.worker.heartbeat = settings.worker.heartbeat.min(Duration::from_secs(3));
        let model = model_args(&settings)?;
        model.device.fix_threads()?;
        block_on(run(settings, model, jobs))
    }
}

/// Derives the id of a job without one from its content, so that the same file, run again, continues after an interruption.
fn with_derived_id(mut job: JobMessage) -> JobMessage {
    if job.job_id.is_none() && job.idempotency_key.is_none() {
        let id = format!("run-{}", &sha256(json(&job).as_bytes())[..16]);
        job.job_id = JobId::try_from(id).ok();
    }
    job
}

async fn run(settings: Settings, model: ModelArgs, jobs: Vec<JobMessage>) -> anyhow::Result<bool> {
    check_confinement(&settings, &own_executable()?)?;
    let backends = Backends::open(&settings).await?;
    check_store(&backends, &jobs)?;
    backends.ledger.migrate().await?;
    backends.wait(&settings).await?;
    let mut ids = Vec::new();
    for job in &jobs {
        match submit(&backends, job).await? {
            Submitted::Job { id, .. } => ids.push(id),
            Submitted::Refused(why) => bail!("{why}"),
        }
    }
    let stop = Stop::default();
    if !all_ended(&backends, &ids).await?.0 {
        let status = Arc::new(Status::default());
        let signalled = tokio::spawn(stop_on_signal(stop.clone(), status.clone())?);
        let caches = cache_bytes(&settings);
        let load = tokio::task::spawn_blocking(move || model.load_to_answer_with_caches(caches));
        let pipeline = load.await??;
        let ours = pipeline.loaded().info.name.clone();
        let working =
            build_worker(&settings, &backends, pipeline, own_executable()?, status, stop.clone())?.run();
        let watching = watch(&backends, &ids, &ours, &stop);
        let (worked, watched) = tokio::join!(working, watching);
        signalled.abort();
        worked?;
        watched?;
    }
    if stop.is_draining() && !all_ended(&backends, &ids).await?.0 {
        eprintln!("interrupted: run the same command again to continue");
    }
    report(&backends, &ids).await
}

/// Shows the progress until every job has ended or the worker is stopped.
///
/// # Errors
/// The ledger does not answer, or a job asks for another model than `ours`.
async fn watch(backends: &Backends, ids: &[JobId], ours: &str, stop: &Stop) -> anyhow::Result<()> {
    let bar = progress(0);
    let result = loop {
        let state = async {
            check_models(backends, ids, ours).await?;
            all_ended(backends, ids).await
        };
        let (ended, counts) = match state.await {
            Ok(state) => state,
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

/// Checks that no video waits for another model: this process has the only worker.
async fn check_models(backends: &Backends, ids: &[JobId], ours: &str) -> anyhow::Result<()> {
    let now = backends.ledger.now().await?;
    for id in ids {
        let unserved = backends.ledger.unserved_routes(id, now).await?;
        if let Some(other) = unserved.iter().map(|found| found.route.as_str()).find(|route| *route != ours) {
            bail!(UsageError(format!(
                "{id}: asks for the model {other:?}, and this is {ours:?}: run it with --model and the other one"
            )));
        }
    }
    Ok(())
}

/// Whether all jobs have ended, and the sum of their item counts.
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

/// Prints one line per job, and its failures. Returns whether all jobs succeeded.
async fn report(backends: &Backends, ids: &[JobId]) -> anyhow::Result<bool> {
    let mut all_well = true;
    for id in ids {
        let Some(record) = backends.ledger.job(id).await? else { continue };
        let counts = backends.ledger.counts(id).await?;
        let folder = backends.store.url(&job_folder(&JobMessage::from_ledger(&record.message)?.output, id));
        print_failures(backends, &record, &counts).await?;
        let skipped = skipped(&record);
        if skipped.total() > 0 {
            eprintln!("{id}: {skipped} (FLAMINGO_LOG=video_worker=debug names them)");
        }
        let (state, done, total) = (record.state.as_str(), counts.succeeded, counts.total);
        print_line(&format!("{id}  {state}  {done} of {total} succeeded  {folder}"))?;
        all_well &= record.state == JobState::Succeeded;
    }
    Ok(all_well)
}

/// Maximum number of failures that are printed per job; `errors.jsonl` has all.
const MAX_PRINTED: usize = 10;

async fn print_failures(backends: &Backends, record: &JobRecord, counts: &Counts) -> anyhow::Result<()> {
    if let Some(why) = &record.failure {
        eprintln!("error[{}]: {}: {}", why.code, record.id, printable(&why.message));
    }
    let failed = if counts.failed == 0 { vec![] } else { all_items(&backends.ledger, &record.id).await? };
    let failed = failed.iter().filter(|item| item.state == ItemState::Failed);
    for (item, why) in failed.filter_map(|item| Some((item, item.failure.as_ref()?))).take(MAX_PRINTED) {
        eprintln!("error[{}]: {}/{}: {}", why.code, record.id, item.id, printable(&why.message));
    }
    if counts.failed > MAX_PRINTED as u64 {
        eprintln!("and {} more, see errors.jsonl", counts.failed - MAX_PRINTED as u64);
    }
    Ok(())
}
