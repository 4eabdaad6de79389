//! `flamingo config`: shows the settings in force, and the source of each.

use clap::Args;

use crate::output::{print_line, printable};
use crate::settings::{ModelOverrides, SettingsArgs};

#[derive(Debug, Args)]
pub struct Config {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    model: ModelOverrides,
}

impl Config {
    pub fn run(self) -> anyhow::Result<bool> {
        let (_, origins) = self.settings.load(&self.model.settings())?;
        for origin in origins {
            print_line(&format!("{:<26} {:<40} {}", origin.setting, printable(&origin.value), origin.from))?;
        }
        Ok(true)
    }
}
