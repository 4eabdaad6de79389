//! Methods of few-shot classification, and the choice among them.

use clap::ValueEnum;
use flamingo::Task;
use flamingo::few_shot::classifiers::{Candidate, Choice, ExampleLabels, Examples, Method, choose_method};
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Shot};
use flamingo::task::Labels;
use indicatif::ProgressBar;
use inference::context::RequestContext;
use inference::feature_classifier::FeatureClassifier;
use inference::model::Model;
use inference::support::EncodedSupport;

use crate::args::UsageError;
use crate::output::progress;

/// Examples above which `auto` does not try in-context learning, which runs the language model once per example.
const MAX_IN_CONTEXT: usize = 128;
/// Rank of the cost of in-context learning among the methods: the greatest.
const IN_CONTEXT_COST: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Likelihood of each label after the few-shot examples.
    InContext,
    /// Similarity of the vision features to the mean of each label's examples.
    Prototypes,
    /// Vote of the nearest examples by vision features.
    Neighbours,
    /// Logistic regression on vision features.
    LinearProbe,
    /// The method with the most right answers about left-out examples.
    Auto,
}

impl MethodName {
    /// Every method, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Prototypes, Self::Neighbours, Self::LinearProbe, Self::InContext];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match (self, self.of_features()) {
            (_, Some(method)) => method.name(),
            (Self::Auto, None) => "auto",
            (_, None) => "in-context",
        }
    }

    /// Returns the method on vision features, if it is one.
    pub fn of_features(self) -> Option<Method> {
        let [prototypes, neighbours, linear_probe] = Method::ALL;
        match self {
            Self::Prototypes => Some(prototypes),
            Self::Neighbours => Some(neighbours),
            Self::LinearProbe => Some(linear_probe),
            Self::InContext | Self::Auto => None,
        }
    }
}

/// Classification by few-shot examples.
pub struct FewShotClassification<'a> {
    pub model: &'a dyn Model,
    pub support: &'a EncodedSupport,
    pub labels: &'a Labels,
    pub question: &'a str,
}

impl FewShotClassification<'_> {
    /// Returns the examples with their labels.
    ///
    /// # Errors
    /// [`UsageError`]: a label has no example, or an example has another output than the labels.
    pub fn examples(&self, among: &[usize]) -> anyhow::Result<Examples> {
        let (shots, features) = (self.support.shots(), self.support.features());
        let outputs = among.iter().map(|&i| &shots[i].text.output);
        let labels =
            ExampleLabels::new(self.labels.iter(), outputs).map_err(|e| UsageError(e.to_string()))?;
        let features: Vec<Vec<f32>> = among.iter().map(|&i| features[i].clone()).collect();
        Examples::new(&features, labels).map_err(|e| UsageError(e.to_string()).into())
    }

    /// Answers one query by the likelihood of each label after shots.
    ///
    /// # Errors
    /// The model fails.
    pub fn in_context(&self, shots: &[Shot], query: &Shot) -> anyhow::Result<Answer> {
        let task = Task::Classify { labels: self.labels.clone(), question: self.question.into() };
        let (generation, context) = (Generation::default(), RequestContext::default());
        Ok(self.model.ask(&[task], shots, &[&query.medium], &generation, &context).remove(0)?)
    }

    /// Returns the classifier of `method`; `None` for in-context learning. `auto` chooses a method and says on standard error why.
    ///
    /// # Errors
    /// As [`examples`](Self::examples) and [`in_context`](Self::in_context).
    pub fn classifier(&self, method: MethodName, seed: u64) -> anyhow::Result<Option<FeatureClassifier>> {
        if method == MethodName::InContext {
            return Ok(None);
        }
        let all: Vec<usize> = (0..self.support.shots().len()).collect();
        let examples = self.examples(&all)?;
        let method = match method.of_features() {
            Some(method) => Some(method),
            None => self.chosen(&examples, seed)?,
        };
        Ok(method.map(|method| FeatureClassifier::fit(method, &examples)).transpose()?)
    }

    /// Chooses a method. Returns the one on vision features, if it is one.
    fn chosen(&self, examples: &Examples, seed: u64) -> anyhow::Result<Option<Method>> {
        let mut candidates: Vec<Candidate> = Method::ALL.map(Candidate::method).into();
        let in_context = self.leave_one_out()?;
        match &in_context {
            Some(right) => candidates.push(Candidate::external("in-context", IN_CONTEXT_COST, right)),
            None => eprintln!(
                "note: in-context learning is not tried with more than {MAX_IN_CONTEXT} examples: --method in-context uses it"
            ),
        }
        let choice = choose_method(examples, &candidates, seed)?;
        explain(&choice);
        Ok(Method::ALL.get(choice.chosen).copied())
    }

    /// Tells for each example whether in-context learning with the others is right. `None`: there are too many examples.
    fn leave_one_out(&self) -> anyhow::Result<Option<Vec<bool>>> {
        let (shots, features) = (self.support.shots(), self.support.features());
        if shots.len() > MAX_IN_CONTEXT {
            return Ok(None);
        }
        let bar: ProgressBar = progress(shots.len());
        let right = |(i, shot): (usize, &Shot)| {
            let others: Vec<usize> = (0..shots.len()).filter(|&other| other != i).collect();
            let answer = self.in_context(&self.support.choose_among(&others, &features[i]), shot)?;
            bar.inc(1);
            Ok(answer.text == shot.text.output.trim())
        };
        let right = shots.iter().enumerate().map(right).collect::<anyhow::Result<_>>();
        bar.finish_and_clear();
        right.map(Some)
    }
}

/// Says on standard error which method was chosen, and why.
fn explain(choice: &Choice) {
    for measured in &choice.candidates {
        let (low, high) = measured.interval;
        eprintln!(
            "  {:<13} {:>3} of {} left-out examples right, {:.0} % ({:.0}-{:.0})",
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
