//! Options for the grounding of answers.

use clap::Args;
use inference::analysis::GroundingSpec;

use crate::args::parse_finite;

#[derive(Debug, Args)]
#[command(next_help_heading = "Answer")]
pub struct GroundingArgs {
    /// Compute the grounding of every answer: its log-likelihood, minus that over frames of the mean colour, in nats.
    #[arg(long)]
    grounding: bool,
    /// Least grounding; an answer with less becomes "not sure".
    #[arg(long, value_name = "NATS", value_parser = parse_finite, allow_negative_numbers = true)]
    min_grounding: Option<f64>,
}

impl GroundingArgs {
    /// The treatment of the grounding that the options name, if they name one.
    pub fn spec(&self) -> Option<GroundingSpec> {
        let asked = self.grounding || self.min_grounding.is_some();
        asked.then_some(GroundingSpec { minimum: self.min_grounding })
    }
}
