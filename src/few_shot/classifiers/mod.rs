//! Classifiers that learn from the features of a few examples, and the choice among methods.
//!
//! All of it computes on plain vectors, without tensors: results depend neither on the device nor on chance. Scores are natural
//! logarithms of probabilities, one per label, in the order of the labels.

mod error;
mod vectors;
mod probabilities;
mod calibration;
mod permutations;
mod label_scores;
mod examples;
mod class_means;
mod neighbours;
mod prototypes;
mod minimise;
mod linear_probe;
mod label_vectors;
mod classifier;
mod folds;
mod attention_vectors;
mod choice;

pub use attention_vectors::SparseAttentionVectors;
pub use choice::{Candidate, Choice, choose_method};
pub use classifier::{Classifier, Method};
pub use error::ClassifierError;
pub use examples::{ExampleLabels, Examples};
pub use folds::cross_validate;
pub use label_scores::{LabelScores, PromptScores};
pub use label_vectors::LabelVectors;
pub use permutations::Ensemble;
pub use probabilities::most_likely;
