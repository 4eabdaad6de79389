//! `flamingo model init`: creates an untrained model directory.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use flamingo::family::CONFIG;
use flamingo::family::native::{NativeConfig, create, relative};

use crate::output::create_folder;

#[derive(Debug, Args)]
pub struct Init {
    /// Frozen language model: a GGUF file, or a directory with config.json, tokenizer.json and safetensors.
    #[arg(long, value_name = "PATH")]
    language: PathBuf,
    /// New model directory.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl Init {
    pub fn run(self) -> anyhow::Result<bool> {
        if self.out.join(CONFIG).exists() {
            bail!("{}: there is a model already; it is not overwritten", self.out.display());
        }
        create_folder(&self.out)?;
        let language = relative(&self.language, &self.out)?;
        create(&self.out, &NativeConfig::mini("flamingo-mini-untrained", language).zero_shot(), self.seed)?;
        println!("untrained model written to {}", self.out.display());
        Ok(true)
    }
}
