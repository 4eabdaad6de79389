//! `flamingo jobs cancel`: cancels jobs that have not ended.

use clap::Args;
use jobs::ledger::JobRecord;
use jobs::queue::{Lane, Message};
use jobs::state::{EarlyEnd, JobState};
use jobs::time::now;
use video_worker::api::JOB_SCHEMA;
use video_worker::app::Backends;

use super::open_backends;
use crate::output::print_line;
use crate::settings::{SettingsArgs, find_job};

#[derive(Debug, Args)]
pub struct Cancel {
    /// Ids of the jobs.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Cancel {
    pub async fn run(self) -> anyhow::Result<bool> {
        let (backends, remote) = open_backends(&self.settings).await?;
        backends.ledger.check().await?;
        let mut all_well = true;
        for name in &self.jobs {
            let record = find_job(&backends.ledger, name).await?;
            if backends.ledger.end_early(&record.id, EarlyEnd::Cancelled, now()).await? && remote {
                notify(&backends, record).await;
            }
            // This command or another one has cancelled it, or it has ended before.
            let record = find_job(&backends.ledger, name).await?;
            let early = record.failure.as_ref().and_then(|why| EarlyEnd::of(&why.code));
            match (early, record.state) {
                (Some(EarlyEnd::Cancelled), JobState::Cancelled) => {
                    print_line(&format!("{}  is cancelled", record.id))?
                }
                (Some(EarlyEnd::Cancelled), _) => print_line(&format!("{}  is being cancelled", record.id))?,
                (_, state) => {
                    let state = state.as_str();
                    eprintln!("error[too_late]: {}: is {state}: it cannot be cancelled any more", record.id);
                    all_well = false;
                }
            }
        }
        Ok(all_well)
    }
}

/// Sends a job message, so that a worker finalises the job now and not at the next sweep.
async fn notify(backends: &Backends, JobRecord { id, message, trace, .. }: JobRecord) {
    let message = Message { trace, ..Message::new(id.to_string(), JOB_SCHEMA, message) };
    if let Err(error) = backends.queue.send(Lane::Jobs, &message).await {
        eprintln!(
            "warning: {id}: cancelled, but no message was sent; the next sweep of a worker finds it: {error}"
        );
    }
}
