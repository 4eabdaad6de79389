//! Metrics of classification: ROC AUC and top-1 accuracy.

use std::cmp::Ordering;

use super::MetricError;
use super::error::{check_lengths, check_numbers};

/// Area under the ROC curve, from 0 to 1 (0.5 for chance): the probability that a positive item has a higher score
/// than a negative one, where equal scores count one half. Infinite scores are allowed.
///
/// Source: `sklearn.metrics.roc_auc_score`; the metric of Hateful Memes.
///
/// # Errors
/// The lists differ in length or are empty, a score is not a number, or all items are of one class.
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Result<f64, MetricError> {
    check_lengths(scores.len(), positive.len())?;
    check_numbers(scores)?;
    let mut items: Vec<(f64, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    items.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal));
    let (mut below, mut positives, mut area) = (0.0, 0.0, 0.0);
    for equal in items.chunk_by(|a, b| a.0 == b.0) {
        let hits = equal.iter().filter(|(_, positive)| *positive).count() as f64;
        let misses = equal.len() as f64 - hits;
        area += hits * (below + misses / 2.0);
        below += misses;
        positives += hits;
    }
    if positives == 0.0 || below == 0.0 {
        return Err(MetricError::OneClass);
    }
    Ok(area / (positives * below))
}

/// Share of the items whose prediction equals the reference, from 0 to 1.
///
/// # Errors
/// The lists differ in length or are empty.
pub fn top_1_accuracy<T: PartialEq>(predictions: &[T], references: &[T]) -> Result<f64, MetricError> {
    check_lengths(predictions.len(), references.len())?;
    let right =
        predictions.iter().zip(references).filter(|(prediction, reference)| prediction == reference).count();
    Ok(right as f64 / references.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_ordered_pairs() {
        assert_eq!(roc_auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), Ok(0.75));
        assert_eq!(roc_auc(&[1.0, 1.0, 1.0], &[true, false, true]), Ok(0.5));
        assert_eq!(roc_auc(&[0.0, -0.0], &[true, false]), Ok(0.5));
        assert_eq!(roc_auc(&[f64::NEG_INFINITY, 3.0], &[false, true]), Ok(1.0));
    }

    #[test]
    fn auc_needs_two_classes_and_numbers() {
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), Err(MetricError::OneClass));
        assert_eq!(roc_auc(&[0.1, f64::NAN], &[true, false]), Err(MetricError::NotANumber(1)));
        assert_eq!(roc_auc(&[], &[]), Err(MetricError::NoItems));
        assert_eq!(roc_auc(&[0.1], &[]), Err(MetricError::Lengths { left: 1, right: 0 }));
    }

    #[test]
    fn top_1_is_the_share_of_equal_labels() {
        assert_eq!(top_1_accuracy(&["a", "b", "c", "d"], &["a", "c", "c", "e"]), Ok(0.5));
        assert_eq!(top_1_accuracy::<u32>(&[], &[]), Err(MetricError::NoItems));
    }
}
