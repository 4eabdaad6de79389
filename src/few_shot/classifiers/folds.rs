//! Cross-validation.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::probabilities::most_likely;
use super::{ClassifierError, ExampleLabels, Examples, Method};

/// Greatest number of examples of which each is left out alone.
pub(super) const LEAVE_ONE_OUT: usize = 64;
/// Folds for more examples.
pub(super) const FOLDS: usize = 5;

/// Tells for each example whether a classifier that learned from others gives it its label. Up to 64 examples are left out one
/// by one; more of them in 5 folds, in which labels have equal shares and which depend on `seed`: a method is fitted at most 64
/// times. An example that is alone in its class is always wrong, since no other one has its label.
///
/// # Errors
/// The parameter of the method is not positive.
pub fn cross_validate(method: Method, examples: &Examples, seed: u64) -> Result<Vec<bool>, ClassifierError> {
    method.check()?;
    let all = examples.labels().all();
    let mut right = vec![false; all.len()];
    for held in folds(examples.labels(), &all, fold_count(all.len()), seed) {
        let found = right_of(method, examples, &without(&all, &held), &held);
        held.iter().zip(found).for_each(|(&i, found)| right[i] = found);
    }
    Ok(right)
}

/// Number of folds for so many examples.
pub(super) fn fold_count(examples: usize) -> usize {
    if examples <= LEAVE_ONE_OUT { examples } else { FOLDS }
}

/// Tells for each of the examples `held` whether a classifier that learned from `train`, at least one, gives it its label.
pub(super) fn right_of(method: Method, examples: &Examples, train: &[usize], held: &[usize]) -> Vec<bool> {
    let fitted = method.fit_on(examples, train);
    held.iter().map(|&i| most_likely(&fitted.scores(examples.row(i))) == examples.label(i)).collect()
}

/// Divides examples into `count` folds of equal size, give or take one, in which every label has an equal share. Each fold is
/// in ascending order.
pub(super) fn folds(labels: &ExampleLabels, examples: &[usize], count: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut order = examples.to_vec();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    // A stable sort keeps the random order within a label. Dealt to one fold after the other, the examples of a label come to
    // different folds.
    order.sort_by_key(|&i| labels.of_examples()[i]);
    let mut folds = vec![Vec::new(); count];
    for (i, example) in order.into_iter().enumerate() {
        folds[i % count].push(example);
    }
    folds.iter_mut().for_each(|fold| fold.sort_unstable());
    folds
}

/// The examples that are not in `held`; both in ascending order.
pub(super) fn without(examples: &[usize], held: &[usize]) -> Vec<usize> {
    examples.iter().copied().filter(|i| held.binary_search(i).is_err()).collect()
}

/// The examples whose label another one of them has, too.
pub(super) fn comparable(labels: &ExampleLabels, examples: &[usize]) -> Vec<usize> {
    let counts = labels.counts(examples);
    examples.iter().copied().filter(|&i| counts[labels.of_examples()[i]] > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_equal_shares_of_each_fold() {
        let outputs = (0..103).map(|i| if i % 10 == 0 { "rare" } else { "usual" });
        let labels = ExampleLabels::new(["rare", "usual"], outputs).unwrap();
        let all = labels.all();
        let found = folds(&labels, &all, 5, 1);
        assert_eq!(found, folds(&labels, &all, 5, 1));
        assert_ne!(found, folds(&labels, &all, 5, 2));
        let mut joined = found.concat();
        joined.sort_unstable();
        assert_eq!(joined, all);
        for fold in &found {
            assert!(fold.len() == 20 || fold.len() == 21);
            let rare = labels.counts(fold)[0];
            assert!(rare == 2 || rare == 3);
            assert_eq!(without(&all, fold).len(), 103 - fold.len());
        }
        // Both examples of a label are never in one fold.
        let pairs = ExampleLabels::new(["0", "1", "2"], ["0", "1", "2", "0", "1", "2"]).unwrap();
        for fold in folds(&pairs, &pairs.all(), 5, 1) {
            assert!(pairs.counts(&fold).iter().all(|&count| count < 2));
        }
    }

    /// 80 examples of two labels that are far apart: every fold gets all of its examples right.
    #[test]
    fn many_examples_are_left_out_in_folds() {
        let row = |i: usize| vec![if i < 30 { 1.0 } else { -1.0 }, (i as f32).sin() / 4.0];
        let features: Vec<Vec<f32>> = (0..80).map(row).collect();
        let outputs = (0..80).map(|i| if i < 30 { "left" } else { "right" });
        let labels = ExampleLabels::new(["left", "right"], outputs).unwrap();
        let examples = Examples::new(&features, labels).unwrap();
        for method in Method::ALL {
            assert_eq!(cross_validate(method, &examples, 3).unwrap(), [true; 80], "{method:?}");
        }
    }
}
