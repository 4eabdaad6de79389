//! `flamingo classify`: chooses among given labels.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use flamingo::Task;
use flamingo::task::{Classification, LabelScore, Labels};

use crate::analyze::AnalyzeArgs;
use crate::args::UsageError;
use crate::methods::{MethodArg, TextTowerArgs};

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
    /// Text that is written on the input, such as that of a meme: the prompt shows it before the question. Examples have theirs in
    /// `text` of a line of --support.
    #[arg(long, value_name = "TEXT", help_heading = "Classification")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    text: Option<String>,
    /// Method: the language model after the few-shot examples, or one that compares vectors of the input with those of the examples
    /// or labels.
    #[arg(
        long,
        value_enum,
        value_name = "METHOD",
        default_value = "in-context",
        help_heading = "Classification"
    )]
    method: MethodArg,
    #[command(flatten)]
    text_tower: TextTowerArgs,
    /// Orders of the same examples in which the language model answers; the probabilities are averaged. Reports have their spread.
    #[arg(
        long,
        default_value = "1",
        value_name = "N",
        requires = "support",
        help_heading = "Classification"
    )]
    permutations: NonZeroUsize,
    /// Score of a label: its log-likelihood, or that per token, which does not favour short labels.
    #[arg(long, value_enum, value_name = "SCORE", default_value = "sum", help_heading = "Classification")]
    score: ScoreName,
    /// Divide the probability of each label by its probability after the same prompt with frames of the mean colour in place of
    /// the input.
    #[arg(long, help_heading = "Classification")]
    calibrate: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScoreName {
    Sum,
    Mean,
}

impl From<ScoreName> for LabelScore {
    fn from(name: ScoreName) -> Self {
        match name {
            ScoreName::Sum => Self::Sum,
            ScoreName::Mean => Self::Mean,
        }
    }
}

impl Classify {
    pub fn run(self) -> anyhow::Result<bool> {
        let support = self.common.support()?;
        let method = self.method.few_shot();
        let support = support.map(|set| {
            set.with_options(|of| {
                (of.permutations, of.method) = (self.permutations, method.unwrap_or_default())
            })
        });
        self.check_method(support.is_some())?;
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
        let classification = Classification {
            labels,
            question: self.question,
            text: self.text,
            score: self.score.into(),
            calibrate: self.calibrate,
        };
        if method.is_none() && classification.has_score_options() {
            let text = "--score and --calibrate are about the scores of the language model: --method label-text has none";
            return Err(UsageError(text.into()).into());
        }
        let text_tower = method.is_none().then_some(&self.text_tower);
        self.common.run_each_with(vec![Task::Classify(classification)], support, text_tower)
    }

    fn check_method(&self, has_examples: bool) -> Result<(), UsageError> {
        match (self.method, has_examples) {
            (MethodArg::LabelText, true) => {
                Err(UsageError("--method label-text learns from no examples: leave out --support".into()))
            }
            (MethodArg::InContext | MethodArg::LabelText, false) | (_, true) => Ok(()),
            (_, false) => Err(UsageError("--method needs the examples of --support".into())),
        }
    }
}
