//! `flamingo migrate`: creates or upgrades the database tables.

use clap::Args;
use jobs::ledger::{Ledger, LedgerSettings};

use crate::output::print_line;
use crate::settings::{SettingsArgs, block_on};

#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Migrate {
    pub fn run(self) -> anyhow::Result<bool> {
        let (settings, _) = self.settings.load(&[])?;
        block_on(async {
            Ledger::open(&settings.database.url, &LedgerSettings::default()).await?.migrate().await?;
            print_line(&format!("{} has all tables of this version", settings.database.url))?;
            Ok(true)
        })
    }
}
