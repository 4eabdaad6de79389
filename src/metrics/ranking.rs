//! Metrics of rankings, as in VisDial: NDCG, mean reciprocal rank, mean rank, recall.

use std::cmp::Ordering;
use std::num::NonZeroUsize;

use super::MetricError;
use super::error::{check_lengths, check_numbers};

/// Indices of values, the greatest first; equal ones keep their order.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal));
    order
}

/// Rank of option `target` among options with these scores: 1 for the greatest score. Of equal scores the earlier
/// option comes first.
///
/// # Errors
/// A score is not a number, or there is no option `target`.
pub fn rank(scores: &[f64], target: usize) -> Result<NonZeroUsize, MetricError> {
    check_numbers(scores)?;
    let own =
        *scores.get(target).ok_or(MetricError::NoSuchOption { index: target, options: scores.len() })?;
    let before = |(i, &score): (usize, &f64)| score > own || (score == own && i < target);
    let ahead = scores.iter().enumerate().filter(|&option| before(option)).count();
    Ok(NonZeroUsize::MIN.saturating_add(ahead))
}

/// Normalised discounted cumulative gain of one ranking, from 0 to 1: with k the count of options of relevance above
/// 0, the sum of relevance / log2(rank + 1) over the k options of greatest score, divided by the same sum over the k
/// most relevant options. Of equal scores the earlier option comes first.
///
/// Source: `visdialch/metrics.py` of batra-mlp-lab/visdial-challenge-starter-pytorch; VisDial takes the mean over the
/// images.
///
/// # Errors
/// The lists differ in length or are empty, a score is not a number, a relevance is negative or not finite, or none
/// is above 0.
pub fn ndcg(scores: &[f64], relevance: &[f64]) -> Result<f64, MetricError> {
    check_lengths(scores.len(), relevance.len())?;
    check_numbers(scores)?;
    if let Some(at) = relevance.iter().position(|&value| !(value.is_finite() && value >= 0.0)) {
        return Err(MetricError::Relevance(at));
    }
    let relevant = relevance.iter().filter(|&&value| value > 0.0).count();
    if relevant == 0 {
        return Err(MetricError::NoRelevantOption);
    }
    let gain = |order: Vec<usize>| -> f64 {
        let first = order.into_iter().take(relevant).enumerate();
        first.map(|(place, option)| relevance[option] / (place as f64 + 2.0).log2()).sum()
    };
    Ok(gain(descending(scores)) / gain(descending(relevance)))
}

/// Mean of 1 / rank, above 0 and at most 1.
///
/// # Errors
/// There are no ranks.
pub fn mean_reciprocal_rank(ranks: &[NonZeroUsize]) -> Result<f64, MetricError> {
    mean(ranks, |rank| 1.0 / rank as f64)
}

/// Mean rank, at least 1.
///
/// # Errors
/// There are no ranks.
pub fn mean_rank(ranks: &[NonZeroUsize]) -> Result<f64, MetricError> {
    mean(ranks, |rank| rank as f64)
}

/// Share of the ranks that are at most `k`, from 0 to 1.
///
/// # Errors
/// There are no ranks.
pub fn recall_at(ranks: &[NonZeroUsize], k: usize) -> Result<f64, MetricError> {
    mean(ranks, |rank| f64::from(u8::from(rank <= k)))
}

fn mean(ranks: &[NonZeroUsize], value: impl Fn(usize) -> f64) -> Result<f64, MetricError> {
    if ranks.is_empty() {
        return Err(MetricError::NoItems);
    }
    Ok(ranks.iter().map(|rank| value(rank.get())).sum::<f64>() / ranks.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_begin_at_one() {
        let scores = [0.2, 0.9, 0.2, -1.0];
        let ranks: Vec<_> = (0..4).map(|i| rank(&scores, i).unwrap()).collect();
        assert_eq!(ranks.iter().map(|rank| rank.get()).collect::<Vec<_>>(), [2, 1, 3, 4]);
        assert_eq!(mean_rank(&ranks), Ok(2.5));
        assert_eq!(recall_at(&ranks, 1), Ok(0.25));
        assert_eq!(recall_at(&ranks, 5), Ok(1.0));
        assert!((mean_reciprocal_rank(&ranks).unwrap() - (1.0 + 0.5 + 1.0 / 3.0 + 0.25) / 4.0).abs() < 1e-12);
        assert_eq!(rank(&scores, 4), Err(MetricError::NoSuchOption { index: 4, options: 4 }));
        assert_eq!(rank(&[f64::NAN], 0), Err(MetricError::NotANumber(0)));
        assert_eq!(recall_at(&[], 1), Err(MetricError::NoItems));
    }

    #[test]
    fn ndcg_discounts_by_rank() {
        let relevance = [1.0, 0.0, 0.5, 0.0];
        assert_eq!(ndcg(&[3.0, 1.0, 2.0, 0.0], &relevance), Ok(1.0));
        let swapped = ndcg(&[2.0, 1.0, 3.0, 0.0], &relevance).unwrap();
        let discount = 1.0 / 3f64.log2();
        assert!((swapped - (0.5 + discount) / (1.0 + 0.5 * discount)).abs() < 1e-12);
        assert_eq!(ndcg(&[0.0, 1.0, 0.0, 1.0], &relevance), Ok(0.0));
    }

    #[test]
    fn ndcg_checks_its_input() {
        assert_eq!(ndcg(&[1.0], &[0.0]), Err(MetricError::NoRelevantOption));
        assert_eq!(ndcg(&[1.0], &[-1.0]), Err(MetricError::Relevance(0)));
        assert_eq!(ndcg(&[f64::NAN], &[1.0]), Err(MetricError::NotANumber(0)));
        assert_eq!(ndcg(&[1.0], &[]), Err(MetricError::Lengths { left: 1, right: 0 }));
    }
}
