//! `flamingo jobs cancel`: cancels jobs that have not ended.

use clap::Args;
use jobs::client::Notification;
use jobs::state::{EarlyEnd, JobState};

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
        let (backends, _) = open_backends(&self.settings).await?;
        backends.ledger.check().await?;
        let mut all_well = true;
        for name in &self.jobs {
            let record = find_job(&backends.ledger, name).await?;
            if let Notification::Failed(error) = backends.client().cancel(&record).await? {
                let id = &record.id;
                eprintln!(
                    "warning: {id}: cancelled, but no message was sent; the next sweep of a worker finds it: {error}"
                );
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
