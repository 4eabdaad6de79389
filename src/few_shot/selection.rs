//! Choice of the examples for a query.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;

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
    pub fn choose(self, features: &[Vec<f32>], query: &[f32], count: usize) -> Vec<usize> {
        let count = count.min(features.len());
        match self {
            Selection::First => (0..count).collect(),
            Selection::Random { seed } => {
                index::sample(&mut StdRng::seed_from_u64(seed), features.len(), count).into_vec()
            }
            Selection::Nearest => {
                let mut nearest: Vec<(f32, usize)> =
                    features.iter().enumerate().map(|(i, of)| (cosine(of, query), i)).collect();
                nearest.sort_by(|(a, i), (b, j)| b.total_cmp(a).then(i.cmp(j)));
                nearest[..count].iter().rev().map(|&(_, i)| i).collect()
            }
        }
    }
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
