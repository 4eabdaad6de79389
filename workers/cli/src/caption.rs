//! `flamingo caption`: captions videos and images.

use clap::Args;
use flamingo::Task;

use crate::analyze::AnalyzeArgs;

#[derive(Debug, Args)]
pub struct Caption {
    #[command(flatten)]
    common: AnalyzeArgs,
}

impl Caption {
    pub fn run(self) -> anyhow::Result<bool> {
        self.common.run_each(vec![Task::Caption {}])
    }
}
