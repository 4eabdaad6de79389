//! `flamingo model pull`: downloads a model into the cache of this machine.

use clap::Args;

use crate::args::UsageError;
use crate::hub::pull::{Replaced, named, pull};

#[derive(Debug, Args)]
pub struct Pull {
    /// Name of the model, such as openflamingo/OpenFlamingo-3B-vitl-mpt1b; `flamingo model list` shows the known ones.
    #[arg(value_name = "NAME")]
    name: String,
    /// Branch, tag or commit of its repository [default: main].
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Language model of a checkpoint without one, instead of that of the catalogue: a name or a directory.
    #[arg(long, value_name = "NAME|DIR")]
    language: Option<String>,
    /// Vision encoder of a checkpoint without one, instead of that of the catalogue: a name or a directory.
    #[arg(long, value_name = "NAME|DIR")]
    vision: Option<String>,
}

impl Pull {
    pub fn run(self) -> anyhow::Result<bool> {
        let name = named(&self.name, self.revision.as_deref()).map_err(UsageError)?;
        let replaced = Replaced { language: self.language, vision: self.vision };
        let directory = pull(&name, &replaced)?;
        println!("{}", directory.path.display());
        Ok(true)
    }
}
