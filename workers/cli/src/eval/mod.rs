//! `flamingo eval`: measures the accuracy of a model.

use clap::Subcommand;

mod dataset;
mod few_shot;
mod plot;
#[cfg(feature = "train")]
mod spriteworld;

#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Measure the metric of a benchmark on a file of items.
    Dataset(Box<dataset::EvalDataset>),
    /// Measure every method of few-shot classification by the number of examples.
    FewShot(few_shot::EvalFewShot),
    /// Measure the accuracy by kind of question on SpriteWorld, on held-out clips or with a control.
    #[cfg(feature = "train")]
    Spriteworld(spriteworld::EvalSpriteworld),
}

impl Eval {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Eval::Dataset(command) => command.run(),
            Eval::FewShot(command) => command.run(),
            #[cfg(feature = "train")]
            Eval::Spriteworld(command) => command.run(),
        }
    }
}
