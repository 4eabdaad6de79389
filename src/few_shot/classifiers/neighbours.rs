//! Nearest neighbours.

use std::sync::Arc;

use super::Examples;
use super::probabilities::{FIRST_VOTE, vote_shares};
use super::vectors::dot;

/// Examples that vote for their labels.
#[derive(Debug, Clone)]
pub(super) struct Neighbours {
    /// Features (d) and labels of the examples.
    rows: Vec<(Arc<[f32]>, usize)>,
    labels: usize,
    /// Neighbours that vote.
    count: usize,
}

impl Neighbours {
    /// Keeps some of the examples. `most`: greatest number of neighbours; no more vote than the smallest class has examples, since
    /// a class could not win against a larger one otherwise.
    pub(super) fn fit(examples: &Examples, train: &[usize], most: usize) -> Self {
        let counts = examples.labels().counts(train);
        let smallest = counts.iter().copied().filter(|&count| count > 0).min().unwrap_or(0);
        let rows = train.iter().map(|&i| (examples.row(i).clone(), examples.label(i))).collect();
        Self { rows, labels: counts.len(), count: most.min(smallest) }
    }

    /// Scores of a query (d) of length 1 or 0. A neighbour with the cosine c has (1 + c) / 2 of a vote. Of equally near examples,
    /// the first votes; of labels with equal votes, that of the nearest neighbour wins.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        let mut nearest: Vec<(f64, usize)> =
            self.rows.iter().map(|(row, label)| (dot(row, query), *label)).collect();
        nearest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut votes = vec![0.0; self.labels];
        for (i, &(cosine, label)) in nearest.iter().take(self.count).enumerate() {
            let factor = if i == 0 { FIRST_VOTE } else { 1.0 };
            votes[label] += factor * f64::midpoint(1.0, cosine.clamp(-1.0, 1.0));
        }
        vote_shares(&votes)
    }
}
