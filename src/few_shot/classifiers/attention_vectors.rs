//! Sparse attention vectors (Mitra et al., arXiv 2412.00142): of all attention heads of a language model, the few whose outputs
//! distinguish the labels best.

use super::class_means::ClassSums;
use super::error::positive;
use super::folds::{fold_count, folds, without};
use super::probabilities::{FIRST_VOTE, most_likely, vote_shares};
use super::vectors::check;
use super::{ClassifierError, ExampleLabels};

/// Difference of two cosines that is more than rounding. The heads before the first cross-attention have the same outputs for
/// all media: without it, all their examples could be right.
const LEAST_MARGIN: f64 = 1e-6;

/// Chosen heads, each with the mean output of every class.
#[derive(Debug, Clone)]
pub struct SparseAttentionVectors {
    /// The best first.
    heads: Vec<Head>,
    /// Widths of the outputs of all heads.
    widths: Vec<usize>,
    labels: usize,
}

#[derive(Debug, Clone)]
struct Head {
    index: usize,
    means: ClassSums,
}

impl SparseAttentionVectors {
    /// Rank of the cost in [`Candidate::external`](super::Candidate::external): a pass of the language model.
    pub const COST: u32 = 10;

    /// Chooses the `keep` best heads, or all if there are fewer. `outputs`: for each example and head, the output at the last
    /// position (example, head, d). A head is as good as its number of examples whose output is most similar to the mean of their
    /// own class, from which they are left out; of equal heads, the one with the larger sum of margins of the cosine is better.
    ///
    /// # Errors
    /// The numbers of examples, heads or values differ, a value is not finite, a label has no example, no label has two, or
    /// `keep` is 0.
    pub fn fit(
        outputs: &[Vec<Vec<f32>>],
        labels: &ExampleLabels,
        keep: usize,
    ) -> Result<Self, ClassifierError> {
        let widths = check_outputs(outputs, labels, keep)?;
        let all = labels.all();
        if labels.counts(&all).iter().all(|&count| count < 2) {
            return Err(ClassifierError::NoPairs);
        }
        Ok(Self::fit_on(outputs, labels, &all, keep, widths))
    }

    /// Indices of the chosen heads, the best first.
    #[cfg(test)]
    fn heads(&self) -> Vec<usize> {
        self.heads.iter().map(|head| head.index).collect()
    }

    /// Returns the logarithm of the probability of each label, in the order of the labels. `outputs`: the output of every head for
    /// the query (head, d). Each chosen head votes for the label whose mean is most similar; one more vote is spread over all
    /// labels. Of labels with equal votes, that of the best head wins.
    ///
    /// # Errors
    /// The number of heads or values differs from that of the examples, or a value is not finite.
    pub fn scores(&self, outputs: &[Vec<f32>]) -> Result<Vec<f64>, ClassifierError> {
        check_heads(outputs, &self.widths, "the query")?;
        Ok(self.votes(outputs))
    }

    /// Tells for each example whether vectors that were chosen and averaged from others give it its label. Folds as in
    /// [`cross_validate`](super::cross_validate).
    ///
    /// # Errors
    /// As [`fit`](Self::fit), except that no label needs two examples: an example that is alone in its class is wrong.
    pub fn cross_validate(
        outputs: &[Vec<Vec<f32>>],
        labels: &ExampleLabels,
        keep: usize,
        seed: u64,
    ) -> Result<Vec<bool>, ClassifierError> {
        let widths = check_outputs(outputs, labels, keep)?;
        let all = labels.all();
        let mut right = vec![false; all.len()];
        for held in folds(labels, &all, fold_count(all.len()), seed) {
            let fitted = Self::fit_on(outputs, labels, &without(&all, &held), keep, widths.clone());
            for i in held {
                right[i] = most_likely(&fitted.votes(&outputs[i])) == labels.of_examples()[i];
            }
        }
        Ok(right)
    }

    fn fit_on(
        outputs: &[Vec<Vec<f32>>],
        labels: &ExampleLabels,
        train: &[usize],
        keep: usize,
        widths: Vec<usize>,
    ) -> Self {
        let label_count = labels.names().len();
        let mut ranked: Vec<(usize, f64, Head)> = Vec::with_capacity(widths.len());
        for (index, &width) in widths.iter().enumerate() {
            let vectors = || train.iter().map(|&i| (&outputs[i][index][..], labels.of_examples()[i]));
            let means = ClassSums::new(label_count, width, vectors());
            let margins: Vec<f64> = vectors()
                .filter_map(|(vector, label)| Some(margin(&means.cosines_without(vector, label)?, label)))
                .collect();
            let right = margins.iter().filter(|&&margin| margin > LEAST_MARGIN).count();
            ranked.push((right, margins.iter().sum(), Head { index, means }));
        }
        // Stable: of equal heads, the first.
        ranked.sort_by(|(right, margins, _), (other_right, other_margins, _)| {
            other_right.cmp(right).then(other_margins.total_cmp(margins))
        });
        let heads = ranked.into_iter().take(keep).map(|(_, _, head)| head).collect();
        Self { heads, widths, labels: label_count }
    }

    fn votes(&self, outputs: &[Vec<f32>]) -> Vec<f64> {
        let mut votes = vec![0.0; self.labels];
        for (i, head) in self.heads.iter().enumerate() {
            let label = most_likely(&head.means.cosines(&outputs[head.index]));
            votes[label] += if i == 0 { FIRST_VOTE } else { 1.0 };
        }
        vote_shares(&votes)
    }
}

/// Cosine to the own class minus the greatest one to another class with examples; 0 if there is no other.
fn margin(cosines: &[f64], label: usize) -> f64 {
    let others = cosines.iter().enumerate().filter(|&(i, _)| i != label).map(|(_, &cosine)| cosine);
    let greatest = others.fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY { 0.0 } else { cosines[label] - greatest }
}

/// Checks outputs (example, head, d). Returns the width of each head.
fn check_outputs(
    outputs: &[Vec<Vec<f32>>],
    labels: &ExampleLabels,
    keep: usize,
) -> Result<Vec<usize>, ClassifierError> {
    positive("the number of heads to keep", keep as f64)?;
    labels.check(outputs.len())?;
    let widths: Vec<usize> = outputs[0].iter().map(Vec::len).collect();
    if widths.is_empty() {
        return Err(ClassifierError::Empty("heads"));
    }
    for (number, heads) in (1..).zip(outputs) {
        check_heads(heads, &widths, &format!("example {number}"))?;
    }
    Ok(widths)
}

fn check_heads(heads: &[Vec<f32>], widths: &[usize], subject: &str) -> Result<(), ClassifierError> {
    if heads.len() != widths.len() {
        let (found, expected) = (heads.len(), widths.len());
        return Err(ClassifierError::Count { what: "heads", found, expected });
    }
    for (index, (vector, &width)) in heads.iter().zip(widths).enumerate() {
        check(vector, width, || format!("{subject}, head {index}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head 0 says nothing, head 1 separates the labels, head 2 confuses one example, head 3 separates them by less.
    fn outputs() -> (Vec<Vec<Vec<f32>>>, ExampleLabels) {
        let example = |sign: f32, confused: f32| {
            vec![vec![1.0, 1.0], vec![sign, 0.1], vec![sign * confused, 0.2], vec![0.3 * sign, 1.0]]
        };
        let outputs = vec![
            example(1.0, 1.0),
            example(-1.0, 1.0),
            example(1.0, 1.0),
            example(-1.0, 1.0),
            example(1.0, 1.0),
            example(-1.0, -1.0),
        ];
        let labels = ["up", "down", "up", "down", "up", "down"];
        (outputs, ExampleLabels::new(["up", "down"], labels).unwrap())
    }

    #[test]
    fn best_heads_are_kept_and_vote() {
        let (outputs, labels) = outputs();
        let fitted = SparseAttentionVectors::fit(&outputs, &labels, 3).unwrap();
        assert_eq!(fitted.heads(), [1, 3, 2]);
        let query = vec![vec![1.0, 1.0], vec![1.0, 0.0], vec![-1.0, 0.0], vec![-0.2, 1.0]];
        let scores = fitted.scores(&query).unwrap();
        // One vote for "up", two for "down", one spread over both.
        assert!((scores[0].exp() - 1.5 / 4.0).abs() < 1e-5 && (scores[1].exp() - 2.5 / 4.0).abs() < 1e-5);
        assert!((scores.iter().map(|s| s.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
        // One vote for each: the best head decides, here for the second label.
        let query = vec![vec![1.0, 1.0], vec![-1.0, 0.0], vec![1.0, 0.0], vec![0.2, 1.0]];
        let two = SparseAttentionVectors::fit(&outputs, &labels, 2).unwrap();
        assert_eq!(most_likely(&two.scores(&query).unwrap()), 1);
        assert_eq!(SparseAttentionVectors::fit(&outputs, &labels, 99).unwrap().heads().len(), 4);
    }

    /// Rounding alone makes the own class of some of these heads the nearest, for all examples.
    #[test]
    fn heads_with_equal_outputs_for_all_examples_are_the_last() {
        let (outputs, labels) = outputs();
        let constant = |head: usize| (0..9).map(|i| ((head * 31 + i * 17) as f32).sin()).collect();
        let constants: Vec<Vec<f32>> = (0..50).map(constant).collect();
        let with_confused = |heads: &Vec<Vec<f32>>| [&constants[..], &heads[2..3]].concat();
        let outputs: Vec<_> = outputs.iter().map(with_confused).collect();
        assert_eq!(SparseAttentionVectors::fit(&outputs, &labels, 1).unwrap().heads(), [50]);
    }

    #[test]
    fn left_out_examples_take_no_part() {
        let (outputs, labels) = outputs();
        let right = SparseAttentionVectors::cross_validate(&outputs, &labels, 1, 0).unwrap();
        let by_hand: Vec<bool> = (0..6)
            .map(|i| {
                let pick = |j: &usize| *j != i;
                let train: Vec<_> = (0..6).filter(pick).map(|j| outputs[j].clone()).collect();
                let names: Vec<_> =
                    (0..6).filter(pick).map(|j| &labels.names()[labels.of_examples()[j]]).collect();
                let labels_of_train = ExampleLabels::new(labels.names(), names).unwrap();
                let fitted = SparseAttentionVectors::fit(&train, &labels_of_train, 1).unwrap();
                most_likely(&fitted.scores(&outputs[i]).unwrap()) == labels.of_examples()[i]
            })
            .collect();
        assert_eq!(right, by_hand);
        assert_eq!(right, [true; 6]);
    }

    #[test]
    fn wrong_outputs_are_refused() {
        let (outputs, labels) = outputs();
        let fit = |outputs: &[Vec<Vec<f32>>], keep| SparseAttentionVectors::fit(outputs, &labels, keep);
        assert!(matches!(fit(&outputs, 0), Err(ClassifierError::Parameter { .. })));
        assert!(matches!(fit(&outputs[1..], 1), Err(ClassifierError::Count { .. })));
        assert!(matches!(fit(&vec![vec![]; 6], 1), Err(ClassifierError::Empty("heads"))));
        let mut bad = outputs.clone();
        bad[3][2][1] = f32::NAN;
        let message = fit(&bad, 1).unwrap_err().to_string();
        assert_eq!(message, "example 4, head 2: a value is not a finite number");
        let mut short = outputs.clone();
        short[2].pop();
        assert!(matches!(fit(&short, 1), Err(ClassifierError::Count { what: "heads", .. })));
        let single = ExampleLabels::new(["up", "down"], ["up", "down"]).unwrap();
        let error = SparseAttentionVectors::fit(&outputs[..2], &single, 1).unwrap_err();
        assert_eq!(error, ClassifierError::NoPairs);
        let right = SparseAttentionVectors::cross_validate(&outputs[..2], &single, 1, 0).unwrap();
        assert_eq!(right, [false, false]);
    }
}
