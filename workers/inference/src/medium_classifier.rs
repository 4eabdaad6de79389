//! Classifiers that answer about a medium in place of the likelihoods of the language model.

use candle_core::DType;
use flamingo::few_shot::classifiers::{
    Classifier, ClassifierError, ExampleLabels, Examples, LabelVectors, Method, SparseAttentionVectors,
    most_likely,
};
use flamingo::generate::Finish;
use flamingo::pipeline::{Answer, Medium, Pipeline};
use flamingo::search::TextTower;
use flamingo::task::{Classification, TextScore};
use flamingo::{Error, Result, Task};

use crate::encoded_video::features;

/// Classifier of media.
#[derive(Debug)]
pub struct MediumClassifier {
    name: &'static str,
    labels: Vec<String>,
    vectors: Vectors,
}

/// The vectors that a classifier compares.
#[derive(Debug)]
enum Vectors {
    /// Vision features.
    Features(Classifier),
    /// Vectors of the joint space of videos and texts.
    Joint(Classifier),
    /// Outputs of attention heads at the end of the prompt of this task.
    Heads(SparseAttentionVectors, Task),
}

impl MediumClassifier {
    /// Name of contrastive classification by the texts of the labels.
    pub const LABEL_TEXT: &'static str = "label-text";
    /// Name of classification by sparse attention vectors.
    pub const ATTENTION_VECTORS: &'static str = "attention-vectors";
    /// Attention heads that vote, as in the paper.
    pub const HEADS: usize = 20;

    /// Learns from the vision features of examples.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn of_features(method: Method, examples: &Examples) -> Result<Self, ClassifierError> {
        let labels = examples.labels().names().to_vec();
        Ok(Self { name: method.name(), labels, vectors: Vectors::Features(method.fit(examples)?) })
    }

    /// Learns from the outputs of attention heads for examples (example, head, d), at the end of the prompt of `classification`.
    ///
    /// # Errors
    /// As [`SparseAttentionVectors::fit`].
    pub fn of_heads(
        outputs: &[Vec<Vec<f32>>],
        labels: &ExampleLabels,
        classification: &Classification,
    ) -> Result<Self, ClassifierError> {
        let vectors = SparseAttentionVectors::fit(outputs, labels, Self::HEADS)?;
        let task = Task::Classify(classification.clone());
        let labels = labels.names().to_vec();
        Ok(Self { name: Self::ATTENTION_VECTORS, labels, vectors: Vectors::Heads(vectors, task) })
    }

    /// Compares media with the texts of labels in the joint space of the model. Needs no example.
    ///
    /// # Errors
    /// The model has no joint space, or `tower` is not the text tower of its training.
    pub fn of_label_text(
        pipeline: &Pipeline,
        tower: &TextTower,
        classification: &Classification,
    ) -> Result<Self> {
        let labels: Vec<String> = classification.labels.iter().map(String::from).collect();
        let (space, dtype) = (pipeline.video_space()?, pipeline.options().dtype);
        let texts = space.of_text(&tower.encode(&labels)?.to_dtype(dtype)?)?;
        let scale = space.scale()?.to_dtype(DType::F32)?.to_vec1::<f32>()?[0];
        let vectors = LabelVectors::new(&texts.to_dtype(DType::F32)?.to_vec2()?, f64::from(scale));
        let vectors = Vectors::Joint(vectors.map_err(refused)?.into());
        Ok(Self { name: Self::LABEL_TEXT, labels, vectors })
    }

    /// Name of the method.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Classifies a medium.
    ///
    /// # Errors
    /// The medium has no vision features, or the model fails.
    pub fn answer(&self, pipeline: &Pipeline, medium: &Medium) -> Result<Answer> {
        let scores = match &self.vectors {
            Vectors::Features(classifier) => classifier.scores(&features(medium)?),
            Vectors::Joint(classifier) => classifier.scores(&pipeline.joint_vector(medium)?),
            Vectors::Heads(vectors, task) => vectors.scores(&pipeline.head_outputs(task, medium)?),
        };
        let scores = scores.map_err(refused)?;
        let best = most_likely(&scores);
        let score = |(text, &log_likelihood): (&String, &f64)| TextScore {
            text: text.clone(),
            log_likelihood,
            probability: log_likelihood.exp(),
        };
        Ok(Answer {
            text: self.labels[best].clone(),
            scores: self.labels.iter().zip(&scores).map(score).collect(),
            log_likelihood: scores[best],
            ..Answer::empty(Finish::Stop, 0)
        })
    }
}

fn refused(why: ClassifierError) -> Error {
    Error::Prompt(why.to_string())
}
