//! Arithmetic on vectors.

use super::ClassifierError;

/// Dot product, in double precision.
pub(super) fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    // Independent sums, which the compiler places in vector registers: it never changes the order of one sum.
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &x), &y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x.into() * y.into();
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&x, &y)| x.into() * y.into()).sum();
    sums.iter().sum::<f64>() + rest
}

/// Adds `factor * x` to `y`.
pub(super) fn add_scaled<T: Copy + Into<f64>>(y: &mut [f64], factor: f64, x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += factor * x.into();
    }
}

/// The vector with length 1; a zero vector stays zero.
pub(super) fn normalised(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
}

/// The vector in double precision.
pub(super) fn double(vector: &[f32]) -> Vec<f64> {
    vector.iter().map(|&x| f64::from(x)).collect()
}

/// Checks that a vector has `width` values, at least one, and that all of them are finite.
pub(super) fn check(
    vector: &[f32],
    width: usize,
    subject: impl Fn() -> String,
) -> Result<(), ClassifierError> {
    if vector.len() != width || width == 0 {
        let expected = width.max(1);
        return Err(ClassifierError::Width { subject: subject(), found: vector.len(), expected });
    }
    if vector.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(ClassifierError::NotFinite(subject())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_count_every_value() {
        for width in 0..20 {
            let a: Vec<f32> = (0..width).map(|i| i as f32).collect();
            let expected: f64 = (0..width).map(|i| f64::from(i * i)).sum();
            assert_eq!(dot(&a, &a), expected);
            assert_eq!(dot(&double(&a), &double(&a)), expected);
        }
    }

    #[test]
    fn lengths_of_any_size_become_one() {
        for vector in [[3e38, 4e37], [3e-40, 4e-40], [-3.0, 4.0]] {
            let length = dot(&normalised(&vector), &normalised(&vector));
            assert!((length - 1.0).abs() < 1e-6, "{vector:?}: {length}");
        }
        assert_eq!(normalised(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
