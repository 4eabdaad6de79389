//! `flamingo classify`: chooses among given labels.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use flamingo::Task;
use flamingo::task::Labels;

use crate::analyze::AnalyzeArgs;
use crate::args::UsageError;
use crate::methods::MethodName;

#[derive(Debug, Args)]
pub struct Classify {
    #[command(flatten)]
    common: AnalyzeArgs,
    /// Label to choose from. Repeat the option for each label [default: the outputs of the few-shot examples].
    #[arg(
        long,
        short,
        value_name = "TEXT",
        required_unless_present_any = ["labels", "support"],
        help_heading = "Classification"
    )]
    label: Vec<String>,
    /// File with one label per line.
    #[arg(long, value_name = "FILE", conflicts_with = "label", help_heading = "Classification")]
    labels: Option<PathBuf>,
    /// Question whose answer is one of the labels.
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "What is this?",
        help_heading = "Classification"
    )]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    question: String,
    /// Method: the language model after the few-shot examples, or one that compares vision features with those of the examples.
    /// `auto` leaves out one example after the other and takes the method that is right most often.
    #[arg(
        long,
        value_enum,
        value_name = "METHOD",
        default_value = "in-context",
        help_heading = "Classification"
    )]
    method: MethodName,
}

impl Classify {
    pub fn run(self) -> anyhow::Result<bool> {
        let support = self.common.support()?;
        if self.method != MethodName::InContext && support.is_none() {
            return Err(UsageError("--method needs the examples of --support".into()).into());
        }
        let labels = match (&self.labels, &support) {
            (None, Some(support)) if self.label.is_empty() => {
                support.outputs().into_iter().map(String::from).collect()
            }
            (None, _) => self.label,
            (Some(path), _) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("{}: cannot read the labels", path.display()))?;
                let lines = text.trim_start_matches('\u{feff}').lines();
                lines.filter(|line| !line.trim().is_empty()).map(String::from).collect()
            }
        };
        let labels = Labels::new(labels).map_err(|e| UsageError(e.to_string()))?;
        self.common.run_each_with(
            vec![Task::Classify { labels, question: self.question }],
            support,
            self.method,
        )
    }
}
