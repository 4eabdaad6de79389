//! Classification by vision features, in place of the language model.

use flamingo::few_shot::classifiers::{Classifier, ClassifierError, Examples, Method, most_likely};
use flamingo::generate::Finish;
use flamingo::pipeline::{Answer, Medium};
use flamingo::task::TextScore;
use flamingo::{Error, Result};

use crate::encoded_video::features;

/// Classifier that has learnt from the features of labelled examples.
#[derive(Debug)]
pub struct FeatureClassifier {
    method: Method,
    classifier: Classifier,
    labels: Vec<String>,
}

impl FeatureClassifier {
    /// Learns from examples.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: Method, examples: &Examples) -> Result<Self, ClassifierError> {
        let labels = examples.labels().names().to_vec();
        Ok(Self { method, classifier: method.fit(examples)?, labels })
    }

    /// Name of the method.
    pub fn name(&self) -> &'static str {
        self.method.name()
    }

    /// Classifies features (d). Returns the logarithm of the probability of each label, in their order.
    ///
    /// # Errors
    /// The features have another width than those of the examples, or are not finite.
    pub fn scores(&self, features: &[f32]) -> Result<Vec<f64>, ClassifierError> {
        self.classifier.scores(features)
    }

    /// Classifies a medium.
    ///
    /// # Errors
    /// The medium has no vision features, or as [`scores`](Self::scores).
    pub fn answer(&self, medium: &Medium) -> Result<Answer> {
        let scores = self.scores(&features(medium)?).map_err(|e| Error::Prompt(e.to_string()))?;
        let best = most_likely(&scores);
        let score = |(text, &log_likelihood): (&String, &f64)| TextScore {
            text: text.clone(),
            log_likelihood,
            probability: log_likelihood.exp(),
        };
        Ok(Answer {
            text: self.labels[best].clone(),
            scores: self.labels.iter().zip(&scores).map(score).collect(),
            finish: Finish::Stop,
            log_likelihood: scores[best],
            prompt_tokens: 0,
            completion_tokens: 0,
            shots: 0,
            transcripts: Vec::new(),
        })
    }
}
