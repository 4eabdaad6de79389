//! Methods of few-shot classification, and the choice among them.

use flamingo::Task;
use flamingo::few_shot::classifiers::{
    Candidate, Choice, ClassifierError, ExampleLabels, Examples, Method, SparseAttentionVectors,
    choose_method,
};
use flamingo::generate::Generation;
use flamingo::pipeline::{Answer, Shot, Shots};
use flamingo::task::Classification;

use crate::context::RequestContext;
use crate::medium_classifier::MediumClassifier;
use crate::method_name::MethodName;
use crate::model::{Model, ModelError};
use crate::support::EncodedSupport;

/// Examples above which `auto` does not try methods that run the language model once per example.
pub const MAX_LANGUAGE_EXAMPLES: usize = 128;
/// Rank of the cost of in-context learning among the methods: the greatest.
const IN_CONTEXT_COST: u32 = 100;

/// Classification by few-shot examples.
pub struct FewShotClassification<'a> {
    pub model: &'a dyn Model,
    pub support: &'a EncodedSupport,
    pub classification: &'a Classification,
    /// Cancellation of the work.
    pub context: &'a RequestContext,
    /// Called for every example about which `auto` has asked the language model.
    pub on_example: &'a dyn Fn(),
}

/// A method that has learnt from the examples.
#[derive(Debug)]
pub struct FittedMethod {
    /// `None`: in-context learning, which has no parameters.
    pub classifier: Option<MediumClassifier>,
    /// Reason of the choice, if the method was [`MethodName::Auto`].
    pub choice: Option<Choice>,
}

/// Reason why a method cannot learn from the examples.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error("the examples cannot be learnt from: {0}")]
    Examples(#[from] ClassifierError),
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl FewShotClassification<'_> {
    /// Learns from all examples by `method`. `seed` decides folds of a cross-validation.
    ///
    /// # Errors
    /// A label has no example, an example has another output than the labels, the model fails, or the request is cancelled.
    pub fn fit(&self, method: MethodName, seed: u64) -> Result<FittedMethod, MethodError> {
        let all = self.all();
        if method != MethodName::Auto {
            return Ok(FittedMethod { classifier: self.classifier(method, &all)?, choice: None });
        }
        let (chosen, choice) = self.choose(seed)?;
        Ok(FittedMethod { classifier: self.classifier(chosen, &all)?, choice: Some(choice) })
    }

    /// Returns the classifier of `method` that has learnt from some of the examples; `None` for in-context learning.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn classifier(
        &self,
        method: MethodName,
        among: &[usize],
    ) -> Result<Option<MediumClassifier>, MethodError> {
        Ok(match (method, method.of_features()) {
            (_, Some(method)) => Some(MediumClassifier::of_features(method, &self.examples(among)?)?),
            (MethodName::AttentionVectors, None) => {
                let (outputs, labels) = (self.head_outputs(among)?, self.labels(among)?);
                Some(MediumClassifier::of_heads(&outputs, &labels, self.classification)?)
            }
            (_, None) => None,
        })
    }

    /// Answers one query by the likelihood of each label after examples, chosen among some of them.
    ///
    /// # Errors
    /// The model fails, or the request is cancelled.
    pub fn in_context(&self, among: &[usize], query: &Shot, features: &[f32]) -> Result<Answer, ModelError> {
        let task = self.task(query);
        let tokenizer = &self.model.pipeline().loaded().tokenizer;
        let question = Some(&self.classification.question[..]);
        let examples = self.support.choose_among(among, features, question, tokenizer)?;
        let shots = Shots { examples: &examples, ensemble: self.support.ensemble() };
        self.model.ask(&[task], shots, &[&query.medium], &Generation::default(), self.context).remove(0)
    }

    /// Returns the task about one medium with the text that is written on it.
    fn task(&self, query: &Shot) -> Task {
        let text = query.text.text.clone();
        Task::Classify(Classification { text, ..self.classification.clone() })
    }

    fn all(&self) -> Vec<usize> {
        (0..self.support.shots().len()).collect()
    }

    fn labels(&self, among: &[usize]) -> Result<ExampleLabels, ClassifierError> {
        let outputs = among.iter().map(|&i| &self.support.shots()[i].text.output);
        ExampleLabels::new(self.classification.labels.iter(), outputs)
    }

    fn examples(&self, among: &[usize]) -> Result<Examples, ClassifierError> {
        let features: Vec<Vec<f32>> = among.iter().map(|&i| self.support.features()[i].clone()).collect();
        Examples::new(&features, self.labels(among)?)
    }

    /// Returns the outputs of all attention heads for some of the examples (example, head, d).
    fn head_outputs(&self, among: &[usize]) -> Result<Vec<Vec<Vec<f32>>>, ModelError> {
        let outputs = |&i: &usize| {
            let shot = &self.support.shots()[i];
            if self.context.cancel.is_cancelled() {
                return Err(ModelError::Cancelled);
            }
            Ok(self.model.pipeline().head_outputs(&self.task(shot), &shot.medium)?)
        };
        among.iter().map(outputs).collect()
    }

    /// Chooses the method with the most right answers about left-out examples.
    fn choose(&self, seed: u64) -> Result<(MethodName, Choice), MethodError> {
        let all = self.all();
        let examples = self.examples(&all)?;
        let mut methods: Vec<MethodName> =
            MethodName::ALL.into_iter().filter(|method| method.of_features().is_some()).collect();
        let mut candidates: Vec<Candidate> = Method::ALL.map(Candidate::method).into();
        let (heads, in_context);
        if all.len() <= MAX_LANGUAGE_EXAMPLES {
            let (outputs, labels) = (self.head_outputs(&all)?, examples.labels());
            heads = SparseAttentionVectors::cross_validate(&outputs, labels, MediumClassifier::HEADS, seed)?;
            in_context = self.leave_one_out()?;
            for (method, cost, right) in [
                (MethodName::AttentionVectors, SparseAttentionVectors::COST, &heads),
                (MethodName::InContext, IN_CONTEXT_COST, &in_context),
            ] {
                methods.push(method);
                candidates.push(Candidate::external(method.name(), cost, right));
            }
        }
        let choice = choose_method(&examples, &candidates, seed)?;
        Ok((methods[choice.chosen], choice))
    }

    /// Tells for each example whether in-context learning with the others is right.
    fn leave_one_out(&self) -> Result<Vec<bool>, ModelError> {
        let right = |(i, features): (usize, &Vec<f32>)| {
            let others: Vec<usize> = self.all().into_iter().filter(|&other| other != i).collect();
            let shot = &self.support.shots()[i];
            let answer = self.in_context(&others, shot, features)?;
            (self.on_example)();
            Ok(answer.text == shot.text.output.trim())
        };
        self.support.features().iter().enumerate().map(right).collect()
    }
}
