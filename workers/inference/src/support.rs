//! An encoded support set, and the examples that it gives to a query.

use flamingo::Result;
use flamingo::few_shot::Selection;
use flamingo::pipeline::{Medium, Shot};

use crate::feature_classifier::features;

/// Support set whose media are encoded once, for all queries.
#[derive(Debug)]
pub struct EncodedSupport {
    shots: Vec<Shot>,
    /// Vision features of each medium.
    features: Vec<Vec<f32>>,
    selection: Selection,
    /// Examples per prompt.
    count: usize,
}

impl EncodedSupport {
    /// Joins encoded examples and the rule that chooses `count` of them for each query.
    ///
    /// # Errors
    /// A medium has no vision features.
    pub fn new(shots: Vec<Shot>, selection: Selection, count: usize) -> Result<Self> {
        let features = shots.iter().map(|shot| features(&shot.medium)).collect::<Result<_>>()?;
        Ok(Self { shots, features, selection, count })
    }

    /// Chooses the examples for a query, in the order of the prompt.
    ///
    /// # Errors
    /// The query has no vision features.
    pub fn choose(&self, query: &Medium) -> Result<Vec<Shot>> {
        let all: Vec<usize> = (0..self.shots.len()).collect();
        Ok(self.choose_among(&all, &features(query)?))
    }

    /// Chooses the examples for a query with these features (d) among some of the examples, in the order of the prompt.
    pub fn choose_among(&self, among: &[usize], query: &[f32]) -> Vec<Shot> {
        let features: Vec<&[f32]> = among.iter().map(|&i| &self.features[i][..]).collect();
        let chosen = self.selection.choose(&features, query, self.count);
        chosen.into_iter().map(|i| self.shots[among[i]].clone()).collect()
    }

    /// Returns all examples.
    pub fn shots(&self) -> &[Shot] {
        &self.shots
    }

    /// Returns the vision features (d) of every example.
    pub fn features(&self) -> &[Vec<f32>] {
        &self.features
    }
}
