//! `flamingo jobs watch`: follows one job until it has ended.

use std::time::Duration;

use clap::Args;
use jobs::state::JobState;
use video_worker::jobs::progress::JobProgress;

use super::format::job_line;
use super::open_ledger;
use crate::output::print_line;
use crate::settings::{SettingsArgs, find_job};

#[derive(Debug, Args)]
pub struct Watch {
    /// Id of the job.
    job: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Watch {
    pub async fn run(self) -> anyhow::Result<bool> {
        let ledger = open_ledger(&self.settings).await?;
        let mut printed = String::new();
        loop {
            let record = find_job(&ledger, &self.job).await?;
            let counts = ledger.counts(&record.id).await?;
            let progress = JobProgress::load(&ledger, &record, &counts).await?;
            let line = job_line(&record, &counts, progress);
            if line != printed {
                print_line(&line)?;
                printed = line;
            }
            if record.state.is_end() {
                return Ok(record.state == JobState::Succeeded);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
