//! `flamingo jobs show`: shows one job with its items.

use clap::Args;
use inference::progress::Progress;
use jobs::ledger::UnservedRoute;
use jobs::time::timestamp;
use serde_json::json;
use video_worker::jobs::expand::skipped;
use video_worker::jobs::progress::JobProgress;

use super::format::{entered_states, item_json, job_json, job_line};
use super::{all_items, open_ledger};
use crate::output::{print_line, printable};
use crate::settings::{SettingsArgs, find_job};

#[derive(Debug, Args)]
pub struct Show {
    /// Id of the job.
    job: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Show {
    pub async fn run(self) -> anyhow::Result<bool> {
        let ledger = open_ledger(&self.settings).await?;
        let record = find_job(&ledger, &self.job).await?;
        let counts = ledger.counts(&record.id).await?;
        let items = all_items(&ledger, &record.id).await?;
        let progress = JobProgress::load(&ledger, &record, &counts).await?;
        let unserved = ledger.unserved_routes(&record.id, ledger.now().await?).await?;
        let skipped = skipped(&record);
        if self.json {
            let mut value = job_json(&record, &counts, progress);
            value["waiting_for_models"] =
                unserved.iter().map(|unserved| json!(unserved.route.as_str())).collect();
            value["skipped"] = json!(skipped);
            value["items"] = items.iter().map(item_json).collect();
            print_line(&format!("{value:#}"))?;
            return Ok(true);
        }
        print_line(&job_line(&record, &counts, progress))?;
        for UnservedRoute { route, items } in unserved {
            let model = printable(route.as_str());
            print_line(&format!("  no worker has the model {model}; videos that wait for it: {items}"))?;
        }
        for (state, at) in entered_states(&record) {
            print_line(&format!("  {:<20} {}", state.as_str(), timestamp(at)))?;
        }
        if skipped.total() > 0 {
            print_line(&format!("  {skipped}"))?;
        }
        for item in items {
            let why = item.failure.as_ref().map(|why| format!("{}: {}", why.code, printable(&why.message)));
            let progress =
                item.progress.as_deref().and_then(Progress::parse).filter(|_| item.worker.is_some());
            let progress =
                progress.map(|p| format!("{} %, {} frames, {} tokens", p.percent, p.frames, p.tokens));
            let note = why.or(progress).unwrap_or_default();
            print_line(&format!("  {:<9} {:<40} {note}", item.state.as_str(), item.id))?;
        }
        Ok(true)
    }
}
