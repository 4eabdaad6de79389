//! WUPS of answers.

use std::collections::HashMap;

use super::WordNet;
use crate::metrics::{MetricError, caption_words};

/// Greatest number of words of an answer that count.
const MOST_WORDS: usize = 128;
/// Factor for similarities below the threshold.
const PENALTY: f64 = 0.1;

impl WordNet {
    /// WUPS of a predicted answer, from 0 to 1, the greatest over the references. `threshold` is 0.0 or 0.9: word
    /// similarities below it count a tenth. For two lists of words the score is the smaller of two products, in both
    /// directions, over the words of one list of the greatest similarity to a word of the other, words without any
    /// similarity left out. Equal words have similarity 1, other words [`WordNet::wup_similarity`].
    ///
    /// Words are those of [`caption_words`], at most 128 of an answer. NExT-QA's script first reduces words to their
    /// base forms by a tagger and removes its list of stop words; WordNet finds most base forms itself, the caller
    /// may remove words. That script counts questions of counting and of yes or no by equality instead.
    ///
    /// Source: Malinowski and Fritz 2014 (arXiv 1410.0210), in the form of `get_wups` in `metrics.py` of
    /// doc-doc/NExT-OE.
    ///
    /// # Errors
    /// There are no references, or the threshold is not a number.
    pub fn wups(
        &self,
        prediction: &str,
        references: &[impl AsRef<str>],
        threshold: f64,
    ) -> Result<f64, MetricError> {
        if threshold.is_nan() {
            return Err(MetricError::NotANumber(0));
        }
        let words =
            |text: &str| -> Vec<String> { caption_words(text).into_iter().take(MOST_WORDS).collect() };
        let prediction = words(prediction);
        let score = |reference: &str| {
            let reference = words(reference);
            let similarities = self.similarities(&prediction, &reference, threshold);
            let columns =
                (0..reference.len()).map(|at| similarities.iter().map(|row| row[at]).fold(0.0, f64::max));
            let rows = similarities.iter().map(|row| row.iter().copied().fold(0.0, f64::max));
            product(rows).min(product(columns))
        };
        let scores = references.iter().map(|reference| score(reference.as_ref()));
        scores.reduce(f64::max).ok_or(MetricError::NoReference(0))
    }

    /// Similarity of every word of the first list to every word of the second, below the threshold a tenth of it.
    fn similarities(&self, first: &[String], second: &[String], threshold: f64) -> Vec<Vec<f64>> {
        let mut known: HashMap<(&str, &str), f64> = HashMap::new();
        let mut of = |a, b| {
            *known.entry((a, b)).or_insert_with(|| match a == b {
                true => 1.0,
                false => {
                    self.wup_similarity(a, b).map_or(0.0, |s| if s < threshold { PENALTY * s } else { s })
                }
            })
        };
        first.iter().map(|a| second.iter().map(|b| of(a, b)).collect()).collect()
    }
}

/// Product of the values above 0; 0 if there are none.
fn product(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|&value| value > 0.0).reduce(|a, b| a * b).unwrap_or(0.0)
}
