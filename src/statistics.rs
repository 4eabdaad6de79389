//! Statistics of right and wrong answers.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Number of right answers among those that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Right answers.
    pub right: usize,
    /// Questions asked.
    pub asked: usize,
}

impl Accuracy {
    /// Share of right answers, 0 to 1.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }

    /// Wilson score interval of the share at 95 % confidence, for independent answers. Two questions about
    /// one clip depend on each other slightly. 0 to 1 if nothing was asked.
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_964;
        if self.asked == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (self.asked as f64, self.share());
        let centre = p + Z * Z / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 / (1.0 + Z * Z / n);
        (((centre - spread) * scale).clamp(0.0, p), ((centre + spread) * scale).clamp(p, 1.0))
    }
}

impl FromIterator<bool> for Accuracy {
    /// Counts answers that are right or not.
    fn from_iter<I: IntoIterator<Item = bool>>(answers: I) -> Self {
        answers.into_iter().fold(Self::default(), |counted, right| Self {
            right: counted.right + usize::from(right),
            asked: counted.asked + 1,
        })
    }
}

/// Mean of values; `None` if there are none.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Samples of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// Returns the 95 % bootstrap interval of a statistic of `items` items. `statistic` computes it for a sample of them, by index;
/// samples for which it has no value do not count. `None`: it has a value for no sample. The samples are always the same.
pub fn bootstrap(items: usize, statistic: impl Fn(&[usize]) -> Option<f64>) -> Option<(f64, f64)> {
    let rng = &mut StdRng::seed_from_u64(0);
    let mut sample = || (0..items).map(|_| rng.random_range(0..items)).collect::<Vec<usize>>();
    let mut values: Vec<f64> = (0..RESAMPLES).filter_map(|_| statistic(&sample())).collect();
    values.sort_by(f64::total_cmp);
    let quantile = |share: f64| values.get(((values.len() as f64 - 1.0) * share).round() as usize).copied();
    Some((quantile(0.025)?, quantile(0.975)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval of a mean of n coin tosses is about +- 1.96 * sqrt(0.25 / n).
    #[test]
    fn bootstrap_intervals_have_their_width() {
        let tosses: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let sampled = |sample: &[usize]| mean(&sample.iter().map(|&i| tosses[i]).collect::<Vec<_>>());
        let (low, high) = bootstrap(tosses.len(), sampled).unwrap();
        assert!((low - 0.451).abs() < 0.01 && (high - 0.549).abs() < 0.01, "{low} to {high}");
        assert_eq!(bootstrap(5, |_| None), None);
        assert_eq!(mean(&[]), None);
    }

    /// Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    #[test]
    fn computes_wilson_intervals() {
        for (right, asked, low, high) in
            [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0), (0, 0, 0.0, 1.0)]
        {
            let (l, h) = Accuracy { right, asked }.interval();
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{right} of {asked}: {l} to {h}");
        }
    }

    #[test]
    fn counts_right_answers() {
        let accuracy: Accuracy = [true, false, true, true].into_iter().collect();
        assert_eq!(accuracy, Accuracy { right: 3, asked: 4 });
        assert_eq!(accuracy.share(), 0.75);
    }
}
