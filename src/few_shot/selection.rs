//! Choice of the examples for a query.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{SliceRandom, index};

/// Rule that chooses examples of a support set for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The examples with the most similar vision features, the most similar one last, directly before the query (RICES:
    /// Flamingo, section 3.4 and appendix A.2).
    Nearest,
    /// Random examples in random order, the same for all queries.
    Random {
        /// Seed of the choice.
        seed: u64,
    },
    /// The first examples of the support set, in its order.
    First,
}

impl Selection {
    /// Chooses `count` of the examples with these `features`, or all if there are fewer. Returns their indices in the order of
    /// the prompt. Features are vectors of one width; their similarity is the cosine.
    pub fn choose(self, features: &[impl AsRef<[f32]>], query: &[f32], count: usize) -> Vec<usize> {
        let count = count.min(features.len());
        match self {
            Selection::First => (0..count).collect(),
            Selection::Random { seed } => {
                index::sample(&mut StdRng::seed_from_u64(seed), features.len(), count).into_vec()
            }
            Selection::Nearest => {
                let mut nearest: Vec<(f32, usize)> =
                    features.iter().enumerate().map(|(i, of)| (cosine(of.as_ref(), query), i)).collect();
                nearest.sort_by(|(a, i), (b, j)| b.total_cmp(a).then(i.cmp(j)));
                nearest[..count].iter().rev().map(|&(_, i)| i).collect()
            }
        }
    }
}

/// Returns all examples in a random order in which the labels alternate, as far as there are examples: every beginning of it
/// has about equally many of each label. `labels` are the label of each example.
pub fn balanced_order(labels: &[usize], seed: u64) -> Vec<usize> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut by_label: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (example, label) in labels.iter().enumerate() {
        by_label.entry(*label).or_default().push(example);
    }
    let mut columns: Vec<Vec<usize>> = by_label.into_values().collect();
    columns.iter_mut().for_each(|of| of.shuffle(rng));
    let longest = columns.iter().map(Vec::len).max().unwrap_or(0);
    let round =
        |place: usize| columns.iter().filter_map(move |of| of.get(place)).copied().collect::<Vec<_>>();
    let rounds: Vec<Vec<usize>> = (0..longest).map(round).collect();
    let shuffled = |mut round: Vec<usize>| {
        round.shuffle(rng);
        round
    };
    rounds.into_iter().flat_map(shuffled).collect()
}

/// Cosine of two vectors; 0 if one of them is 0.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_example_is_last() {
        let features = [vec![0.0, 2.0], vec![3.0, 0.1], vec![1.0, 1.0], vec![-1.0, 0.0]];
        let choose = |selection: Selection, count| selection.choose(&features, &[1.0, 0.0], count);
        assert_eq!(choose(Selection::Nearest, 2), [2, 1]);
        assert_eq!(choose(Selection::Nearest, 9), [3, 0, 2, 1]);
        assert_eq!(choose(Selection::First, 3), [0, 1, 2]);
        assert!(choose(Selection::Nearest, 0).is_empty());
    }

    #[test]
    fn every_beginning_of_the_order_is_balanced() {
        let labels = [0, 0, 0, 0, 1, 2, 2, 1, 0];
        let order = balanced_order(&labels, 3);
        let count = |n: usize, label: usize| order[..n].iter().filter(|&&i| labels[i] == label).count();
        assert_eq!([count(3, 0), count(3, 1), count(3, 2)], [1, 1, 1]);
        assert_eq!([count(6, 0), count(6, 1), count(6, 2)], [2, 2, 2]);
        let mut all = order.clone();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<_>>());
        assert_eq!(order, balanced_order(&labels, 3));
        assert_ne!(order, balanced_order(&labels, 4));
    }

    #[test]
    fn a_seed_chooses_distinct_examples() {
        let features = vec![vec![1.0]; 20];
        let choose = |seed| Selection::Random { seed }.choose(&features, &[1.0], 8);
        let mut chosen = choose(1);
        assert_eq!(chosen, choose(1));
        assert_ne!(chosen, choose(2));
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 8);
    }
}
