//! `flamingo jobs`: lists, shows and changes the jobs of the ledger.

use clap::Subcommand;
use jobs::JobId;
use jobs::ledger::{ItemRecord, Ledger, LedgerSettings};
use video_worker::app::Backends;

use crate::settings::{SettingsArgs, block_on};

mod format;
mod list;
mod show;
mod watch;
mod cancel;
mod retry;
mod dead;

#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List the newest jobs.
    List(list::List),
    /// Show one job with its items.
    Show(show::Show),
    /// Follow one job until it has ended.
    Watch(watch::Watch),
    /// Cancel jobs that have not ended. Finished reports are kept, running items are stopped.
    Cancel(cancel::Cancel),
    /// Retry the failed and cancelled items of a job, as a new job.
    Retry(retry::Retry),
    /// List, redrive or drop dead letters: messages that could not be read or delivered.
    #[command(subcommand)]
    Dead(dead::Dead),
}

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

/// Rows per query.
const PAGE_SIZE: u32 = 500;

async fn open_ledger(settings: &SettingsArgs) -> anyhow::Result<Ledger> {
    let (settings, _) = settings.load(&[])?;
    let ledger = Ledger::open(&settings.database.url, &LedgerSettings::default()).await?;
    ledger.check().await?;
    Ok(ledger)
}

/// Opens ledger, queue and store, and tells whether the queue is shared with other processes.
async fn open_backends(settings: &SettingsArgs) -> anyhow::Result<(Backends, bool)> {
    let (settings, _) = settings.load(&[])?;
    let backends = Backends::open(&settings).await?;
    Ok((backends, settings.is_remote()))
}

/// Reads all items of a job, page by page.
///
/// # Errors
/// The ledger does not answer.
pub async fn all_items(ledger: &Ledger, id: &JobId) -> anyhow::Result<Vec<ItemRecord>> {
    let mut items: Vec<ItemRecord> = Vec::new();
    loop {
        let page = ledger.items(id, items.last().map(|item| (item.position, &item.id)), PAGE_SIZE).await?;
        if page.is_empty() {
            return Ok(items);
        }
        items.extend(page);
    }
}
