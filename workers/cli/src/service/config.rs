//! `flamingo config` and `flamingo migrate`.

use clap::Args;
use jobs::ledger::{Ledger, LedgerSettings};

use super::{ModelOver, SettingsArgs, block_on};
use crate::output::{say, shown};

#[derive(Debug, Args)]
pub struct Config {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOver,
}

impl Config {
    pub fn run(self) -> anyhow::Result<bool> {
        let (_, origins) = self.settings.load(&self.model.settings())?;
        for origin in origins {
            say(&format!("{:<26} {:<40} {}", origin.setting, shown(&origin.value), origin.from))?;
        }
        Ok(true)
    }
}

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
            say(&format!("{} has everything that this version needs", settings.database.url))?;
            Ok(true)
        })
    }
}
