//! Sums of the vectors of each label. The cosine to a sum is that to the mean.

use super::vectors::{add_scaled, dot, double};

/// Sum of the vectors of each label.
#[derive(Debug, Clone)]
pub(super) struct ClassSums {
    /// (label, d).
    sums: Vec<Vec<f64>>,
    /// Lengths of the sums.
    lengths: Vec<f64>,
    counts: Vec<usize>,
}

impl ClassSums {
    /// Sums vectors (d) by label.
    pub(super) fn new<'a>(
        labels: usize,
        width: usize,
        vectors: impl IntoIterator<Item = (&'a [f32], usize)>,
    ) -> Self {
        let (mut sums, mut counts) = (vec![vec![0.0; width]; labels], vec![0; labels]);
        for (vector, label) in vectors {
            add_scaled(&mut sums[label], 1.0, vector);
            counts[label] += 1;
        }
        Self { lengths: sums.iter().map(|sum| length(sum)).collect(), sums, counts }
    }

    /// Cosine of a vector to the mean of each label; -inf for a label without vectors.
    pub(super) fn cosines(&self, vector: &[f32]) -> Vec<f64> {
        let vector = double(vector);
        let own = length(&vector);
        let of_label = |label: usize| match self.counts[label] {
            0 => f64::NEG_INFINITY,
            _ => cosine(dot(&vector, &self.sums[label]), own * self.lengths[label]),
        };
        (0..self.sums.len()).map(of_label).collect()
    }

    /// Cosines of a summed vector to the means without it: exact leave-one-out at the cost of one sum. None for the only vector
    /// of its label.
    pub(super) fn cosines_without(&self, vector: &[f32], label: usize) -> Option<Vec<f64>> {
        if self.counts[label] < 2 {
            return None;
        }
        let mut cosines = self.cosines(vector);
        let mut others = self.sums[label].clone();
        add_scaled(&mut others, -1.0, vector);
        let vector = double(vector);
        cosines[label] = cosine(dot(&vector, &others), length(&vector) * length(&others));
        Some(cosines)
    }
}

fn length(vector: &[f64]) -> f64 {
    dot(vector, vector).sqrt()
}

/// Product divided by lengths; 0 if one of them is 0.
fn cosine(product: f64, lengths: f64) -> f64 {
    if lengths > 0.0 { product / lengths } else { 0.0 }
}
