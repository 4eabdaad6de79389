//! When two log-likelihoods of one answer are the same.

/// Within 1e-5, relative, of each other; of one nat where they are less. A likely answer's is a small difference of large
/// logits: with these near 20, f32 itself has no step finer than 1.9e-6.
#[track_caller]
pub fn assert_same(what: &str, a: f64, b: f64) {
    let error = (a - b).abs() / b.abs().max(1.0);
    assert!(error <= 1e-5, "{what}: log-likelihoods of {a} and {b}, {error:.1e} apart");
}
