//! Prototypes: class means of features of length 1.

use super::Examples;
use super::class_means::ClassSums;
use super::probabilities::log_softmax;

/// Factors of the cosines (inverse temperatures) to choose from.
const SCALES: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
/// Factor where no label has two examples, so that nothing can be left out.
const DEFAULT_SCALE: f64 = 10.0;

/// Mean of each class, and the factor of the cosines.
#[derive(Debug, Clone)]
pub(super) struct Prototypes {
    means: ClassSums,
    scale: f64,
}

impl Prototypes {
    /// Computes the means of some of the examples. The factor is the one of [`SCALES`] with the greatest likelihood of the labels,
    /// each example left out of its own mean; examples that are alone in their class do not count. Of equal ones, the smallest.
    pub(super) fn fit(examples: &Examples, train: &[usize]) -> Self {
        let rows = || train.iter().map(|&i| (&examples.row(i)[..], examples.label(i)));
        let means = ClassSums::new(examples.labels().names().len(), examples.width(), rows());
        let left_out: Vec<(Vec<f64>, usize)> =
            rows().filter_map(|(row, label)| Some((means.cosines_without(row, label)?, label))).collect();
        let likelihood = |scale: f64| -> f64 {
            left_out.iter().map(|(cosines, label)| scaled_softmax(cosines, scale)[*label]).sum()
        };
        let mut best = (DEFAULT_SCALE, f64::NEG_INFINITY);
        if !left_out.is_empty() {
            for scale in SCALES {
                let found = likelihood(scale);
                if found > best.1 {
                    best = (scale, found);
                }
            }
        }
        Self { means, scale: best.0 }
    }

    /// Scores of a query (d): softmax of the scaled cosines.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        scaled_softmax(&self.means.cosines(query), self.scale)
    }
}

fn scaled_softmax(cosines: &[f64], scale: f64) -> Vec<f64> {
    log_softmax(&cosines.iter().map(|cosine| scale * cosine).collect::<Vec<_>>())
}
