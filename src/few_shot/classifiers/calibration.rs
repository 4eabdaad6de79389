//! Corrections of the log-likelihoods that a language model gives to labels.

use super::ClassifierError;
use super::probabilities::{log_softmax, mean_probabilities};

/// Contextual calibration (Zhao et al., arXiv 2102.09690): divides the probability of each label by its probability after inputs
/// without content, and normalises. `query`: log-likelihood per label. `content_free`: the same after each input without content,
/// such as an empty image; their probabilities are averaged. Returns logarithms of probabilities.
///
/// # Errors
/// There is no input without content, the numbers of labels differ, or a log-likelihood is not finite.
pub fn calibrate(query: &[f64], content_free: &[Vec<f64>]) -> Result<Vec<f64>, ClassifierError> {
    if content_free.is_empty() {
        return Err(ClassifierError::Empty("inputs without content"));
    }
    finite(query, "the query")?;
    for row in content_free {
        if row.len() != query.len() {
            return Err(ClassifierError::Count {
                what: "log-likelihoods of an input without content",
                found: row.len(),
                expected: query.len(),
            });
        }
        finite(row, "an input without content")?;
    }
    let rows: Vec<Vec<f64>> = content_free.iter().map(|row| log_softmax(row)).collect();
    let prior = mean_probabilities(&rows)?;
    Ok(log_softmax(&query.iter().zip(prior).map(|(of_query, prior)| of_query - prior).collect::<Vec<_>>()))
}

/// Mean log-likelihood per token: the sums over the tokens of each label, divided by their number.
///
/// # Errors
/// The numbers of labels differ, or a label has no token.
pub fn per_token(sums: &[f64], tokens: &[usize]) -> Result<Vec<f64>, ClassifierError> {
    if tokens.len() != sums.len() {
        let (found, expected) = (tokens.len(), sums.len());
        return Err(ClassifierError::Count { what: "numbers of tokens", found, expected });
    }
    if tokens.contains(&0) {
        return Err(ClassifierError::Parameter { name: "the number of tokens of a label", value: 0.0 });
    }
    Ok(sums.iter().zip(tokens).map(|(sum, &tokens)| sum / tokens as f64).collect())
}

fn finite(values: &[f64], subject: &str) -> Result<(), ClassifierError> {
    let good = values.iter().all(|value| value.is_finite());
    if good { Ok(()) } else { Err(ClassifierError::NotFinite(subject.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logarithms(probabilities: &[f64]) -> Vec<f64> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn assert_probabilities(scores: &[f64], expected: &[f64]) {
        assert_eq!(scores.len(), expected.len());
        for (score, expected) in scores.iter().zip(expected) {
            assert!((score.exp() - expected).abs() < 1e-12, "{scores:?}");
        }
    }

    /// 0.6 / 0.75 against 0.4 / 0.25: 0.8 to 1.6.
    #[test]
    fn prior_is_divided_out() {
        let calibrated = calibrate(&logarithms(&[0.6, 0.4]), &[logarithms(&[0.75, 0.25])]).unwrap();
        assert_probabilities(&calibrated, &[1.0 / 3.0, 2.0 / 3.0]);
        // Likelihoods of texts need not have the sum 1.
        let scaled = calibrate(&logarithms(&[6e-9, 4e-9]), &[logarithms(&[3e-30, 1e-30])]).unwrap();
        assert_probabilities(&scaled, &[1.0 / 3.0, 2.0 / 3.0]);
    }

    /// The mean of 0.9, 0.1 and 0.5, 0.5 is 0.7, 0.3.
    #[test]
    fn probabilities_of_several_inputs_are_averaged() {
        let inputs = [logarithms(&[0.9, 0.1]), logarithms(&[0.5, 0.5])];
        assert_probabilities(&calibrate(&logarithms(&[0.7, 0.3]), &inputs).unwrap(), &[0.5, 0.5]);
    }

    #[test]
    fn wrong_likelihoods_are_refused() {
        assert_eq!(calibrate(&[-1.0], &[]), Err(ClassifierError::Empty("inputs without content")));
        assert!(matches!(calibrate(&[-1.0], &[vec![-1.0, -2.0]]), Err(ClassifierError::Count { .. })));
        for bad in [f64::NAN, f64::NEG_INFINITY] {
            assert!(matches!(calibrate(&[bad], &[vec![-1.0]]), Err(ClassifierError::NotFinite(_))));
            assert!(matches!(calibrate(&[-1.0], &[vec![bad]]), Err(ClassifierError::NotFinite(_))));
        }
    }

    #[test]
    fn long_labels_are_compared_by_token() {
        assert_eq!(per_token(&[-4.0, -9.0], &[1, 3]).unwrap(), [-4.0, -3.0]);
        assert!(per_token(&[-4.0], &[1, 3]).is_err());
        assert!(per_token(&[-4.0], &[0]).is_err());
    }
}
