//! Contrastive zero-shot classification (CLIP, arXiv 2103.00020): one text vector per label.

use super::ClassifierError;
use super::error::positive;
use super::probabilities::log_softmax;
use super::vectors::{check, dot, normalised};

/// Vector of each label in the joint space of texts and videos. Needs no example.
#[derive(Debug, Clone)]
pub struct LabelVectors {
    /// (label, d), of length 1 or 0.
    vectors: Vec<Vec<f32>>,
    scale: f64,
}

impl LabelVectors {
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

    /// Width of the joint space.
    pub(super) fn width(&self) -> usize {
        self.vectors[0].len()
    }

    /// Scores of a query (d) of length 1 or 0.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        log_softmax(&self.vectors.iter().map(|vector| self.scale * dot(vector, query)).collect::<Vec<_>>())
    }
}
