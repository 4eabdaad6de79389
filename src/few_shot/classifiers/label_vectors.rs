//! Contrastive zero-shot classification (CLIP, arXiv 2103.00020): one text vector per label.

use super::error::positive;
use super::probabilities::{log_softmax, most_likely};
use super::vectors::{check, dot, normalised};
use super::{ClassifierError, ExampleLabels};

/// Vector of each label in the joint space of texts and videos. Needs no example.
#[derive(Debug, Clone)]
pub struct LabelVectors {
    /// (label, d), of length 1 or 0.
    vectors: Vec<Vec<f32>>,
    scale: f64,
}

impl LabelVectors {
    /// Rank of the cost in [`Candidate::external`](super::Candidate::external): cheaper than all that needs examples.
    pub const COST: u32 = 0;

    /// Keeps vectors (label, d) of any length, a zero vector with the cosine 0 to every query. `scale`: factor of the cosines, the
    /// exponential of the learned logit scale (100 for CLIP).
    ///
    /// # Errors
    /// There are fewer than two labels, vectors have different widths or none, a value is not finite, or `scale` is not positive.
    pub fn new(vectors: &[Vec<f32>], scale: f64) -> Result<Self, ClassifierError> {
        positive("the scale", scale)?;
        if vectors.len() < 2 {
            return Err(ClassifierError::TooFewLabels(vectors.len()));
        }
        for (number, vector) in (1..).zip(vectors) {
            check(vector, vectors[0].len(), || format!("label {number}"))?;
        }
        Ok(Self { vectors: vectors.iter().map(|vector| normalised(vector)).collect(), scale })
    }

    /// Tells for each example whether its label is the most likely one. `features` (example, d) are in the joint space.
    ///
    /// # Errors
    /// The numbers of examples or of labels differ, a vector has another width than those of the labels, or a value is not finite.
    pub fn right(&self, features: &[Vec<f32>], labels: &ExampleLabels) -> Result<Vec<bool>, ClassifierError> {
        let (vectors, names) = (self.vectors.len(), labels.names().len());
        let (rows, examples) = (features.len(), labels.of_examples().len());
        for (what, found, expected) in [("label vectors", vectors, names), ("examples", rows, examples)] {
            if found != expected {
                return Err(ClassifierError::Count { what, found, expected });
            }
        }
        for (number, row) in (1..).zip(features) {
            check(row, self.width(), || format!("example {number}"))?;
        }
        let right = |(row, &label): (&Vec<f32>, &usize)| most_likely(&self.scores(&normalised(row))) == label;
        Ok(features.iter().zip(labels.of_examples()).map(right).collect())
    }

    /// Width of the joint space.
    pub(super) fn width(&self) -> usize {
        self.vectors[0].len()
    }

    /// Scores of a query (d) of length 1 or 0.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        log_softmax(&self.vectors.iter().map(|vector| self.scale * dot(vector, query)).collect::<Vec<_>>())
    }
}
