//! Encoded support sets, and the examples that they give to a query.

use std::sync::Arc;

use flamingo::Result;
use flamingo::few_shot::Selection;
use flamingo::pipeline::{Medium, Shot};

use crate::encoded_video::features;

/// Examples whose media are encoded once, for all queries.
#[derive(Debug)]
pub struct EncodedSet {
    shots: Vec<Shot>,
    /// Vision features of each medium.
    features: Vec<Vec<f32>>,
}

/// An encoded set, and the rule that chooses examples of it.
#[derive(Debug, Clone)]
pub struct EncodedSupport {
    set: Arc<EncodedSet>,
    selection: Selection,
    /// Examples per prompt.
    count: usize,
}

impl EncodedSet {
    /// Joins encoded examples.
    ///
    /// # Errors
    /// A medium has no vision features.
    pub fn new(shots: Vec<Shot>) -> Result<Self> {
        let features = shots.iter().map(|shot| features(&shot.medium)).collect::<Result<_>>()?;
        Ok(Self { shots, features })
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.shots.len()
    }

    /// Returns the vision features (d) of every example.
    pub fn features(&self) -> &[Vec<f32>] {
        &self.features
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.shots.is_empty()
    }

    /// Returns the approximate size in bytes: visual tokens, vision features and texts.
    pub fn bytes(&self) -> usize {
        let shot = |Shot { name, medium, text }: &Shot| {
            let tokens = &medium.visual_tokens;
            let texts = name.len() + text.output.len() + text.question.as_ref().map_or(0, String::len);
            tokens.elem_count() * tokens.dtype().size_in_bytes() + texts + size_of::<Shot>()
        };
        let features: usize = self.features.iter().map(|features| 4 * features.len()).sum();
        self.shots.iter().map(shot).sum::<usize>() + 2 * features
    }
}

impl EncodedSupport {
    /// Chooses `count` examples of `set` for each query by `selection`.
    pub fn new(set: Arc<EncodedSet>, selection: Selection, count: usize) -> Self {
        Self { set, selection, count }
    }

    /// Chooses the examples for a query, in the order of the prompt.
    ///
    /// # Errors
    /// The query has no vision features.
    pub fn choose(&self, query: &Medium) -> Result<Vec<Shot>> {
        let all: Vec<usize> = (0..self.set.shots.len()).collect();
        Ok(self.choose_among(&all, &features(query)?))
    }

    /// Chooses the examples for a query with these features (d) among some of the examples, in the order of the prompt.
    pub fn choose_among(&self, among: &[usize], query: &[f32]) -> Vec<Shot> {
        let features: Vec<&[f32]> = among.iter().map(|&i| &self.set.features[i][..]).collect();
        let chosen = self.selection.choose(&features, query, self.count);
        chosen.into_iter().map(|i| self.set.shots[among[i]].clone()).collect()
    }

    /// Returns all examples.
    pub fn shots(&self) -> &[Shot] {
        &self.set.shots
    }

    /// Returns the vision features (d) of every example.
    pub fn features(&self) -> &[Vec<f32>] {
        &self.set.features
    }
}
