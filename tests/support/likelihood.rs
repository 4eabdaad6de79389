//! Equality of two log-likelihoods of one answer.

/// Asserts a relative difference of at most 1e-5; below one nat, an absolute difference. The log-likelihood of a likely
/// answer is a small difference of large logits: near 20, the step of f32 is 1.9e-6.
#[track_caller]
pub fn assert_same(what: &str, a: f64, b: f64) {
    let error = (a - b).abs() / b.abs().max(1.0);
    assert!(error <= 1e-5, "{what}: log-likelihoods of {a} and {b}, {error:.1e} apart");
}
