//! An encoded support set, and the examples that it gives to a query.

use flamingo::few_shot::Selection;
use flamingo::pipeline::{Medium, Shot};
use flamingo::{Error, Result};

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
        let chosen = self.selection.choose(&self.features, &features(query)?, self.count);
        Ok(chosen.into_iter().map(|i| self.shots[i].clone()).collect())
    }
}

fn features(medium: &Medium) -> Result<Vec<f32>> {
    let features = medium.features.as_ref();
    let features = features.ok_or_else(|| Error::Prompt("a medium has no vision features".into()))?;
    Ok(features.to_dtype(candle_core::DType::F32)?.to_vec1()?)
}
