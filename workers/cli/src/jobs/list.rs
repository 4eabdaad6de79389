//! `flamingo jobs list`: lists the newest jobs.

use clap::Args;
use jobs::JobId;
use jobs::time::Millis;
use video_worker::jobs::progress::JobProgress;

use super::format::{job_json, job_line};
use super::{PAGE_SIZE, open_ledger};
use crate::output::print_line;
use crate::settings::SettingsArgs;

#[derive(Debug, Args)]
pub struct List {
    /// Maximum number of jobs.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Print one JSON object per job.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl List {
    pub async fn run(self) -> anyhow::Result<bool> {
        let ledger = open_ledger(&self.settings).await?;
        let mut before: Option<(Millis, JobId)> = None;
        let mut left = self.limit;
        while left > 0 {
            let page = ledger.jobs(before.as_ref().map(|(at, id)| (*at, id)), left.min(PAGE_SIZE)).await?;
            let Some(last) = page.last() else { break };
            before = Some((last.accepted_at(), last.id.clone()));
            left -= page.len() as u32;
            for record in page {
                let counts = ledger.counts(&record.id).await?;
                let progress = JobProgress::load(&ledger, &record, &counts).await?;
                if self.json {
                    print_line(&job_json(&record, &counts, progress).to_string())?;
                } else {
                    print_line(&job_line(&record, &counts, progress))?;
                }
            }
        }
        Ok(true)
    }
}
