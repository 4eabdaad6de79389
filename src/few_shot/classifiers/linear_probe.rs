//! Linear probe: multinomial logistic regression with an L2 penalty.

use super::Examples;
use super::minimise::minimise;
use super::probabilities::log_softmax;
use super::vectors::{add_scaled, dot, double};

/// Weights (d) and intercept of each label.
#[derive(Debug, Clone)]
pub(super) struct LinearProbe {
    /// None for a label without examples, whose probability is 0.
    labels: Vec<Option<(Vec<f64>, f64)>>,
}

impl LinearProbe {
    /// Fits weights on some of the examples: features of length 1, minus their mean, divided by one number so that their mean
    /// squared length is 1. The loss is that of scikit-learn's `LogisticRegression(C=c)` on the same features: the sum of
    /// -log p(label) plus |w|^2 / (2 c), without a penalty on intercepts; for two labels, w is the difference of their weights.
    pub(super) fn fit(examples: &Examples, train: &[usize], c: f64) -> Self {
        let present: Vec<usize> = {
            let counts = examples.labels().counts(train);
            (0..counts.len()).filter(|&label| counts[label] > 0).collect()
        };
        let problem = Problem::new(examples, train, &present, c);
        let at = minimise(problem.start(), |at, gradient| problem.loss(at, gradient));
        let mut labels = vec![None; examples.labels().names().len()];
        for (&label, fitted) in present.iter().zip(at.chunks(problem.width + 1)) {
            let (weights, intercept) = fitted.split_at(problem.width);
            let weights: Vec<f64> = weights.iter().map(|w| w / problem.spread).collect();
            let intercept = intercept[0] - dot(&weights, &problem.mean);
            labels[label] = Some((examples.span().vector(&weights, examples.width()), intercept));
        }
        Self { labels }
    }

    /// Scores of a query (d) of length 1 or 0.
    pub(super) fn scores(&self, query: &[f32]) -> Vec<f64> {
        let query = double(query);
        let logit = |label: &Option<(Vec<f64>, f64)>| match label {
            Some((weights, intercept)) => dot(weights, &query) + intercept,
            None => f64::NEG_INFINITY,
        };
        log_softmax(&self.labels.iter().map(logit).collect::<Vec<_>>())
    }
}

/// Standardised features, labels and penalty. Parameters: for each present label `width` weights, then the intercept.
struct Problem {
    /// Features and indices of present labels.
    rows: Vec<(Vec<f64>, usize)>,
    width: usize,
    /// Number of present labels.
    labels: usize,
    /// Factor of |w|^2 / 2.
    penalty: f64,
    /// Mean of the features.
    mean: Vec<f64>,
    /// Root of their mean squared distance from the mean; 1 if all are equal.
    spread: f64,
}

impl Problem {
    fn new(examples: &Examples, train: &[usize], present: &[usize], c: f64) -> Self {
        let coordinates = &examples.span().coordinates;
        let width = coordinates[0].len();
        let mut mean = vec![0.0; width];
        for &i in train {
            add_scaled(&mut mean, 1.0 / train.len() as f64, &coordinates[i]);
        }
        let centred = |&i: &usize| -> (Vec<f64>, usize) {
            let row = coordinates[i].iter().zip(&mean).map(|(x, mean)| x - mean).collect();
            let label = present.iter().position(|&label| label == examples.label(i));
            (row, label.expect("every label of `train` is present"))
        };
        let mut rows: Vec<(Vec<f64>, usize)> = train.iter().map(centred).collect();
        let squares: f64 = rows.iter().map(|(row, _)| dot(row, row)).sum();
        let spread = (squares / rows.len() as f64).sqrt();
        // Features in single precision that differ by less are equal.
        let spread = if spread > 1e-7 { spread } else { 1.0 };
        rows.iter_mut().for_each(|(row, _)| row.iter_mut().for_each(|x| *x /= spread));
        // Two labels have the weights w/2 and -w/2, whose squares are half of that of w.
        let penalty = if present.len() == 2 { 2.0 / c } else { 1.0 / c };
        Self { rows, width, labels: present.len(), penalty, mean, spread }
    }

    /// Parameters for which every label is as likely as it is frequent.
    fn start(&self) -> Vec<f64> {
        let mut counts = vec![0.0_f64; self.labels];
        self.rows.iter().for_each(|&(_, label)| counts[label] += 1.0);
        let mut start = vec![0.0; self.labels * (self.width + 1)];
        for (parameters, count) in start.chunks_mut(self.width + 1).zip(counts) {
            parameters[self.width] = count.ln();
        }
        start
    }

    /// Mean loss per example, and its gradient.
    fn loss(&self, at: &[f64], gradient: &mut [f64]) -> f64 {
        let (stride, count) = (self.width + 1, self.rows.len() as f64);
        let mut loss = 0.0;
        gradient.fill(0.0);
        for (row, label) in &self.rows {
            let logit = |of_label: &[f64]| dot(&of_label[..self.width], row) + of_label[self.width];
            let scores = log_softmax(&at.chunks(stride).map(logit).collect::<Vec<_>>());
            loss -= scores[*label];
            for (k, of_label) in gradient.chunks_mut(stride).enumerate() {
                let error = scores[k].exp() - f64::from(u8::from(k == *label));
                add_scaled(&mut of_label[..self.width], error, row);
                of_label[self.width] += error;
            }
        }
        for (of_label, parameters) in gradient.chunks_mut(stride).zip(at.chunks(stride)) {
            let weights = &parameters[..self.width];
            loss += self.penalty / 2.0 * dot(weights, weights);
            add_scaled(&mut of_label[..self.width], self.penalty, weights);
        }
        gradient.iter_mut().for_each(|g| *g /= count);
        loss / count
    }
}

#[cfg(test)]
mod tests {
    use super::super::ExampleLabels;
    use super::*;

    fn examples(width: usize) -> Examples {
        let row = |i: usize| (0..width).map(|j| ((i * 5 + j * (i % 3 + 1)) as f32).sin()).collect();
        let rows: Vec<Vec<f32>> = (0..15).map(row).collect();
        let labels = ExampleLabels::new(["0", "1", "2"], (0..15).map(|i| (i % 3).to_string())).unwrap();
        Examples::new(&rows, labels).unwrap()
    }

    #[test]
    fn gradient_equals_finite_differences_and_vanishes_at_the_end() {
        let problem = Problem::new(&examples(4), &(0..15).collect::<Vec<_>>(), &[0, 1, 2], 3.0);
        let point: Vec<f64> = (0..15).map(|i| f64::from(i).cos()).collect();
        let mut gradient = vec![0.0; 15];
        problem.loss(&point, &mut gradient);
        for i in 0..15 {
            let loss = |by: f64| {
                let mut moved = point.clone();
                moved[i] += by;
                problem.loss(&moved, &mut [0.0; 15])
            };
            let difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            assert!((difference - gradient[i]).abs() < 1e-8, "{i}: {difference}, {}", gradient[i]);
        }
        for c in [1e-6, 1.0, 1e4] {
            let problem = Problem::new(&examples(4), &(0..15).collect::<Vec<_>>(), &[0, 1, 2], c);
            let at = minimise(problem.start(), |at, gradient| problem.loss(at, gradient));
            problem.loss(&at, &mut gradient);
            assert!(gradient.iter().all(|g| g.abs() < 1e-6), "c = {c}: {gradient:?}");
        }
    }

    /// Zeros make the vectors so wide that they are replaced by coordinates in their span.
    #[test]
    fn span_gives_the_same_probabilities() {
        let narrow = examples(7);
        let rows: Vec<Vec<f32>> =
            (0..15).map(|i| [narrow.row(i).to_vec(), vec![0.0; 100]].concat()).collect();
        let wide = Examples::new(&rows, narrow.labels().clone()).unwrap();
        assert!(wide.span().coordinates[0].len() <= 15);
        let train: Vec<usize> = (2..15).collect();
        let (a, b) = (LinearProbe::fit(&narrow, &train, 10.0), LinearProbe::fit(&wide, &train, 10.0));
        for i in 0..15 {
            let pairs = a.scores(narrow.row(i)).into_iter().zip(b.scores(wide.row(i)));
            pairs.for_each(|(a, b)| assert!((a.exp() - b.exp()).abs() < 1e-5, "{a}, {b}"));
        }
    }
}
