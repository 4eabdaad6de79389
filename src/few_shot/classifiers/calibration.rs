//! Corrections of the log-likelihoods that a language model gives to labels.

use super::ClassifierError;
use super::probabilities::log_softmax;

/// Contextual calibration (Zhao et al., arXiv 2102.09690): divides the probability of each label by its probability after a query
/// without content, and normalises. `query`: log-likelihood per label. `content_free`: the same after the query without content,
/// such as an empty image. Returns logarithms of probabilities.
///
/// # Errors
/// The numbers of labels differ, or a log-likelihood is not finite.
pub(super) fn calibrate(query: &[f64], content_free: &[f64]) -> Result<Vec<f64>, ClassifierError> {
    if content_free.len() != query.len() {
        return Err(ClassifierError::Count {
            what: "log-likelihoods of the query without content",
            found: content_free.len(),
            expected: query.len(),
        });
    }
    finite(query, "the query")?;
    finite(content_free, "the query without content")?;
    Ok(log_softmax(&query.iter().zip(content_free).map(|(query, prior)| query - prior).collect::<Vec<_>>()))
}

/// Mean log-likelihood per token: the sums over the tokens of each label, divided by their number.
///
/// # Errors
/// The numbers of labels differ, or a label has no token.
pub(super) fn per_token(sums: &[f64], tokens: &[usize]) -> Result<Vec<f64>, ClassifierError> {
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
        let calibrated = calibrate(&logarithms(&[0.6, 0.4]), &logarithms(&[0.75, 0.25])).unwrap();
        assert_probabilities(&calibrated, &[1.0 / 3.0, 2.0 / 3.0]);
        // Likelihoods of texts need not have the sum 1.
        let scaled = calibrate(&logarithms(&[6e-9, 4e-9]), &logarithms(&[3e-30, 1e-30])).unwrap();
        assert_probabilities(&scaled, &[1.0 / 3.0, 2.0 / 3.0]);
    }

    #[test]
    fn wrong_likelihoods_are_refused() {
        assert!(matches!(calibrate(&[-1.0], &[-1.0, -2.0]), Err(ClassifierError::Count { .. })));
        for bad in [f64::NAN, f64::NEG_INFINITY] {
            assert!(matches!(calibrate(&[bad], &[-1.0]), Err(ClassifierError::NotFinite(_))));
            assert!(matches!(calibrate(&[-1.0], &[bad]), Err(ClassifierError::NotFinite(_))));
        }
    }

    #[test]
    fn long_labels_are_compared_by_token() {
        assert_eq!(per_token(&[-4.0, -9.0], &[1, 3]).unwrap(), [-4.0, -3.0]);
        assert!(per_token(&[-4.0], &[1, 3]).is_err());
        assert!(per_token(&[-4.0], &[0]).is_err());
    }
}
