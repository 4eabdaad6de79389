//! Options for the method of a classification.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use flamingo::few_shot::classifiers::Choice;
use flamingo::pipeline::Pipeline;
use flamingo::search::TextTower;
use flamingo::task::Classification;
use inference::context::RequestContext;
use inference::medium_classifier::MediumClassifier;
use inference::method_name::MethodName;
use inference::methods::{FewShotClassification, FittedMethod, MAX_LANGUAGE_EXAMPLES, MethodError};
use inference::model::Model;
use inference::support::EncodedSupport;

use crate::args::UsageError;
use crate::output::progress;

/// Name of a method on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// Likelihood of each label after the few-shot examples.
    InContext,
    /// Similarity of the vision features to the mean of each label's examples.
    Prototypes,
    /// Vote of the nearest examples by vision features.
    Neighbours,
    /// Logistic regression on vision features.
    LinearProbe,
    /// Vote of the attention heads of the language model that distinguish the labels of the examples best.
    AttentionVectors,
    /// Similarity of the video to the text of each label in the joint space of the model; needs no examples.
    LabelText,
    /// The method with the most right answers about left-out examples, of all but `label-text`.
    Auto,
}

impl MethodArg {
    /// Every method of the evaluation that needs nothing but examples, the cheapest first.
    pub const ALL: [Self; 5] =
        [Self::Prototypes, Self::Neighbours, Self::LinearProbe, Self::AttentionVectors, Self::InContext];

    /// Returns the method of few-shot classification; `None` for the one that needs no examples.
    pub fn few_shot(self) -> Option<MethodName> {
        Some(match self {
            Self::InContext => MethodName::InContext,
            Self::Prototypes => MethodName::Prototypes,
            Self::Neighbours => MethodName::Neighbours,
            Self::LinearProbe => MethodName::LinearProbe,
            Self::AttentionVectors => MethodName::AttentionVectors,
            Self::Auto => MethodName::Auto,
            Self::LabelText => return None,
        })
    }

    /// Name in tables.
    pub fn name(self) -> &'static str {
        self.few_shot().map_or(MediumClassifier::LABEL_TEXT, MethodName::name)
    }
}

#[derive(Debug, Args)]
pub struct TextTowerArgs {
    /// Text tower of the joint space, for the method `label-text` (`make training` fetches it).
    #[arg(long, value_name = "DIR", default_value = "models/text/all-MiniLM-L6-v2", help_heading = "Model")]
    text_tower: PathBuf,
}

impl TextTowerArgs {
    /// Returns the classifier by the texts of the labels.
    ///
    /// # Errors
    /// [`UsageError`]: the model has no joint space. Else: the text tower cannot be opened, or does not fit the model.
    pub fn classifier(
        &self,
        pipeline: &Pipeline,
        classification: &Classification,
    ) -> anyhow::Result<MediumClassifier> {
        if let Err(why) = pipeline.video_space() {
            return Err(UsageError(format!("{why}, which the method label-text needs")).into());
        }
        let tower: &Path = &self.text_tower;
        let tower = TextTower::open(tower, &pipeline.options().device)
            .context("the text tower cannot be opened (`make training` fetches it)")?;
        Ok(MediumClassifier::of_label_text(pipeline, &tower, classification)?)
    }
}

/// Returns a method that has learnt from the examples. `auto` chooses one and says on standard error why.
///
/// # Errors
/// [`UsageError`]: a label has no example, or an example has another output than the labels. Else: the model fails.
pub fn fit(
    method: MethodName,
    model: &dyn Model,
    support: &EncodedSupport,
    classification: &Classification,
    seed: u64,
) -> anyhow::Result<FittedMethod> {
    let examples = support.shots().len();
    let is_auto = method == MethodName::Auto;
    if is_auto && examples > MAX_LANGUAGE_EXAMPLES {
        eprintln!(
            "note: in-context learning and attention vectors are not tried with more than {MAX_LANGUAGE_EXAMPLES} examples: --method uses them"
        );
    }
    let bar = progress(if is_auto { examples } else { 0 });
    let context = &RequestContext::default();
    let on_example = &|| bar.inc(1);
    let fitted = FewShotClassification { model, support, classification, context, on_example };
    let fitted = fitted.fit(method, seed).map_err(usage);
    bar.finish_and_clear();
    let fitted = fitted?;
    fitted.choice.iter().for_each(explain);
    Ok(fitted)
}

/// Converts an error about the examples to a usage error.
pub fn usage(why: MethodError) -> anyhow::Error {
    match why {
        MethodError::Examples(_) => UsageError(why.to_string()).into(),
        MethodError::Model(why) => why.into(),
    }
}

/// Says on standard error which method was chosen, and why.
fn explain(choice: &Choice) {
    for measured in &choice.candidates {
        let (low, high) = measured.interval;
        eprintln!(
            "  {:<17} {:>3} of {} left-out examples right, {:.0} % ({:.0}-{:.0})",
            measured.name,
            measured.accuracy.right,
            measured.accuracy.asked,
            100.0 * measured.accuracy.share(),
            100.0 * low,
            100.0 * high
        );
    }
    let (low, high) = choice.nested_interval;
    eprintln!(
        "method: {} The accuracy of this choice on examples that took no part in it is {:.0} % ({:.0}-{:.0}).",
        choice.reason,
        100.0 * choice.nested.share(),
        100.0 * low,
        100.0 * high
    );
}
