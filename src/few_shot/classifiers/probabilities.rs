//! Logarithms of probabilities.

use super::ClassifierError;

/// Adds the constant to `values` that makes them logarithms of probabilities with the sum 1. Values that are all -inf become
/// equal.
pub(super) fn log_softmax(values: &[f64]) -> Vec<f64> {
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY {
        return vec![-(values.len() as f64).ln(); values.len()];
    }
    let total = values.iter().map(|v| (v - greatest).exp()).sum::<f64>().ln();
    values.iter().map(|v| v - greatest - total).collect()
}

/// Returns the index of the greatest score, the first one of equal scores; 0 if there are none.
pub fn most_likely(scores: &[f64]) -> usize {
    let greater = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (0..scores.len()).fold(0, greater)
}

/// Mean of the probabilities of several answers to one query, such as those for several orders of the shots (Flamingo, appendix
/// C.2). Rows and result: logarithms of probabilities, one per label.
///
/// # Errors
/// There are no rows, or rows of different lengths.
pub(super) fn mean_probabilities(rows: &[Vec<f64>]) -> Result<Vec<f64>, ClassifierError> {
    let Some(first) = rows.first() else { return Err(ClassifierError::Empty("answers")) };
    if let Some(other) = rows.iter().find(|row| row.len() != first.len()) {
        return Err(ClassifierError::Count { what: "scores", found: other.len(), expected: first.len() });
    }
    let mean = |label: usize| {
        let greatest = rows.iter().map(|row| row[label]).fold(f64::NEG_INFINITY, f64::max);
        if greatest == f64::NEG_INFINITY {
            return greatest;
        }
        let sum: f64 = rows.iter().map(|row| (row[label] - greatest).exp()).sum();
        greatest + (sum / rows.len() as f64).ln()
    };
    Ok((0..first.len()).map(mean).collect())
}

/// Logarithms of the shares of votes. One more vote is spread evenly over all labels, so that a label without votes keeps a
/// probability above 0.
pub(super) fn vote_shares(votes: &[f64]) -> Vec<f64> {
    let (total, even) = (votes.iter().sum::<f64>() + 1.0, 1.0 / votes.len() as f64);
    votes.iter().map(|vote| ((vote + even) / total).ln()).collect()
}

/// Factor of the first vote, which decides between labels with equal votes.
pub(super) const FIRST_VOTE: f64 = 1.0 + 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_for_any_values() {
        for values in [vec![-1e5, -1e5 - 1.0, -2e5], vec![700.0, 800.0], vec![f64::NEG_INFINITY, 3.0]] {
            let sum: f64 = log_softmax(&values).iter().map(|v| v.exp()).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{values:?}: {sum}");
        }
        assert_eq!(log_softmax(&[f64::NEG_INFINITY; 2]), [-2f64.ln(); 2]);
    }

    #[test]
    fn probabilities_are_averaged() {
        let rows = [vec![0.2f64.ln(), 0.8f64.ln()], vec![0.6f64.ln(), 0.4f64.ln()]];
        let mean = mean_probabilities(&rows).unwrap();
        assert!((mean[0].exp() - 0.4).abs() < 1e-12 && (mean[1].exp() - 0.6).abs() < 1e-12);
        // Probabilities that a double cannot hold.
        let mean = mean_probabilities(&[vec![-2000.0, 0.0], vec![-2000.0, f64::NEG_INFINITY]]).unwrap();
        assert_eq!(mean, [-2000.0, 0.5f64.ln()]);
        assert!(mean_probabilities(&[]).is_err());
        assert!(mean_probabilities(&[vec![0.0], vec![]]).is_err());
    }

    #[test]
    fn first_of_equal_scores_is_most_likely() {
        assert_eq!(most_likely(&[-2.0, -1.0, -1.0]), 1);
        assert_eq!(most_likely(&[f64::NEG_INFINITY, -1.0]), 1);
    }
}
