//! Probabilities of labels from their log-likelihoods after one or several prompts.

use super::ClassifierError;
use super::calibration::{calibrate, per_token};
use super::probabilities::{log_softmax, mean_probabilities, most_likely};
use crate::task::{LabelScore, Sensitivity};

/// Log-likelihood of each label after one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptScores {
    /// After the prompt with the query.
    pub query: Vec<f64>,
    /// After the same prompt with a query without content, for a calibration.
    pub content_free: Option<Vec<f64>>,
}

/// Scores of labels after all prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelScores {
    /// Score of each label: its log-likelihood, or the logarithm of its probability if that is calibrated or averaged.
    pub scores: Vec<f64>,
    /// Probability of each label.
    pub probabilities: Vec<f64>,
    /// Spread over the prompts, if there are several.
    pub sensitivity: Option<Sensitivity>,
}

impl LabelScores {
    /// Joins the scores after `prompts`, which differ in the order of their shots. `tokens` is the number of tokens of each label.
    /// Each prompt is calibrated by its own scores without content; then probabilities are averaged.
    ///
    /// # Errors
    /// There is no prompt, the numbers of labels differ, or a log-likelihood to calibrate is not finite.
    pub fn join(
        prompts: &[PromptScores],
        tokens: &[usize],
        score: LabelScore,
    ) -> Result<Self, ClassifierError> {
        let scored = |sums: &[f64]| match score {
            LabelScore::Sum => Ok(sums.to_vec()),
            LabelScore::Mean => per_token(sums, tokens),
        };
        let of_prompt = |PromptScores { query, content_free }: &PromptScores| match content_free {
            None => scored(query),
            Some(content_free) => calibrate(&scored(query)?, &scored(content_free)?),
        };
        let rows = prompts.iter().map(of_prompt).collect::<Result<Vec<_>, _>>()?;
        let normalised: Vec<Vec<f64>> = rows.iter().map(|row| log_softmax(row)).collect();
        let scores = match &rows[..] {
            [only] => only.clone(),
            _ => mean_probabilities(&normalised)?,
        };
        let probabilities = log_softmax(&scores).into_iter().map(f64::exp).collect();
        let sensitivity = (rows.len() > 1).then(|| sensitivity(&normalised, most_likely(&scores)));
        Ok(Self { scores, probabilities, sensitivity })
    }
}

/// Measures the spread of rows of logarithms of probabilities, one per order. `best` is the label of their mean.
fn sensitivity(rows: &[Vec<f64>], best: usize) -> Sensitivity {
    let count = rows.len() as f64;
    let others = rows.iter().filter(|row| most_likely(row) != best).count() as f64;
    let probabilities: Vec<f64> = rows.iter().map(|row| row[best].exp()).collect();
    let mean = probabilities.iter().sum::<f64>() / count;
    let variance = probabilities.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / count;
    Sensitivity { orders: rows.len(), disagreement: others / count, deviation: variance.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(query: &[f64], content_free: Option<&[f64]>) -> PromptScores {
        let logarithms = |values: &[f64]| values.iter().map(|p| p.ln()).collect();
        PromptScores { query: logarithms(query), content_free: content_free.map(logarithms) }
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        }
    }

    fn join(prompts: &[PromptScores], score: LabelScore) -> LabelScores {
        LabelScores::join(prompts, &[1, 3], score).unwrap()
    }

    #[test]
    fn one_prompt_keeps_its_log_likelihoods() {
        let joined = join(&[prompt(&[6e-9, 2e-9], None)], LabelScore::Sum);
        assert_close(&joined.scores, &[6e-9f64.ln(), 2e-9f64.ln()]);
        assert_close(&joined.probabilities, &[0.75, 0.25]);
        assert_eq!(joined.sensitivity, None);
    }

    /// A label of one token with e^-2, and one of three tokens with e^-3: e^-1 per token.
    #[test]
    fn long_labels_are_compared_by_token() {
        let prompts = [prompt(&[(-2f64).exp(), (-3f64).exp()], None)];
        let [by_sum, by_mean] = [LabelScore::Sum, LabelScore::Mean].map(|score| join(&prompts, score));
        assert_close(&by_sum.scores, &[-2.0, -3.0]);
        assert_close(&by_mean.scores, &[-2.0, -1.0]);
    }

    /// 0.6 / 0.75 against 0.4 / 0.25 are 1/3 and 2/3; 0.5 / 0.5 against 0.5 / 0.5 are equal. The means are 5/12 and 7/12.
    #[test]
    fn every_prompt_is_calibrated_and_then_averaged() {
        let prompts = [prompt(&[0.6, 0.4], Some(&[0.75, 0.25])), prompt(&[1e-5, 1e-5], Some(&[2e-3, 2e-3]))];
        let joined = join(&prompts, LabelScore::Sum);
        assert_close(&joined.probabilities, &[5.0 / 12.0, 7.0 / 12.0]);
        assert_close(&joined.scores, &[(5.0f64 / 12.0).ln(), (7.0f64 / 12.0).ln()]);
        // Of equal labels the first is the likeliest: one of two orders disagrees. 2/3 and 1/2 are 1/12 from their mean.
        let Sensitivity { orders, disagreement, deviation } = joined.sensitivity.unwrap();
        assert_eq!(orders, 2);
        assert_close(&[disagreement, deviation], &[0.5, 1.0 / 12.0]);
    }

    #[test]
    fn wrong_scores_are_refused() {
        assert!(LabelScores::join(&[], &[1], LabelScore::Sum).is_err());
        let different = [prompt(&[0.5, 0.5], None), prompt(&[0.5], None)];
        assert!(LabelScores::join(&different, &[1, 1], LabelScore::Sum).is_err());
        assert!(LabelScores::join(&different[..1], &[1], LabelScore::Mean).is_err());
    }
}
