//! Options of `flamingo data` and `flamingo eval` that select a SpriteWorld and a split of its clips.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use flamingo::Pipeline;
use flamingo::train::spriteworld::{Split, World};

use crate::args::UsageError;
use crate::train::read_config;

/// Options that select the world.
#[derive(Debug, Args)]
#[command(next_help_heading = "World")]
pub struct WorldArgs {
    /// Training configuration whose world is used.
    #[arg(long, value_name = "FILE", default_value = "config/train/flamingo-mini.toml")]
    config: PathBuf,
    /// Draw the same world with other icons (Iconify JSON); repeat the option for several sets.
    #[arg(long, value_name = "FILE")]
    icons: Vec<PathBuf>,
}

impl WorldArgs {
    /// Checks that the configuration is that of the model: held-out clips of another configuration may be training clips
    /// of this model.
    ///
    /// # Errors
    /// [`UsageError`]: the names differ.
    pub fn check_trains(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let (world, model) = (read_config(&self.config)?.name, &pipeline.loaded().info.name);
        if world != *model {
            bail!(UsageError(format!(
                "{}: this configuration trains `{world}`, but the model is `{model}`: name its own configuration with --config",
                self.config.display()
            )));
        }
        Ok(())
    }

    /// Opens the world, with its icons.
    ///
    /// # Errors
    /// The configuration or an icon file cannot be read.
    pub fn open(&self) -> anyhow::Result<World> {
        let mut config = read_config(&self.config)?.world;
        if !self.icons.is_empty() {
            config.icons.clone_from(&self.icons);
        }
        World::new(config).context("cannot open the icons of the world")
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SplitName {
    /// Clips of the training.
    Train,
    /// Held-out clips of the same kind as in the training.
    Seeds,
    /// Combinations of thing and motion that are not in the training.
    Combinations,
}

impl SplitName {
    /// The split of the library.
    pub fn split(self) -> Split {
        match self {
            SplitName::Train => Split::Train,
            SplitName::Seeds => Split::HeldOutSeeds,
            SplitName::Combinations => Split::HeldOutCombinations,
        }
    }
}
