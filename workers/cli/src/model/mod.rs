//! `flamingo model inspect|trace|init`.

use clap::Subcommand;

mod inspect;
mod trace;
mod init;

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Load a model directory with all checks, and show its parts, sizes, gates and hashes.
    Inspect(inspect::Inspect),
    /// Write every stage of one forward pass as a named tensor (safetensors).
    Trace(trace::Trace),
    /// Create a new, untrained model directory around a language model.
    Init(init::Init),
}

impl Model {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Model::Inspect(command) => command.run(),
            Model::Trace(command) => command.run(),
            Model::Init(command) => command.run(),
        }
    }
}
