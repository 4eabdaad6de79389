//! `flamingo model list|pull|inspect|check|trace|init`.

use clap::Subcommand;

mod list;
#[cfg(feature = "hub")]
mod pull;
mod inspect;
mod check;
mod trace;
mod init;

#[derive(Debug, Subcommand)]
pub enum Model {
    /// List the models that are known by name: sizes, licences, training data, quality, memory.
    List(list::List),
    /// Download a model into the cache of this machine; `--model NAME` then loads it.
    #[cfg(feature = "hub")]
    Pull(pull::Pull),
    /// Load a model with all checks, and show its parts, number types, memory, gates and hashes.
    Inspect(inspect::Inspect),
    /// Test a model without reference values: gates, finite values, influence of the picture, cache, batches.
    Check(check::Check),
    /// Write every stage of one forward pass as a named tensor (safetensors).
    Trace(trace::Trace),
    /// Create a new, untrained model directory around a language model.
    Init(init::Init),
}

impl Model {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Model::List(command) => command.run(),
            #[cfg(feature = "hub")]
            Model::Pull(command) => command.run(),
            Model::Inspect(command) => command.run(),
            Model::Check(command) => command.run(),
            Model::Trace(command) => command.run(),
            Model::Init(command) => command.run(),
        }
    }
}
