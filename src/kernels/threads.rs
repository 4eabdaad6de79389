//! The thread pool that computes the matrix products of a model.

/// Runs `work` on a rayon thread. From any other thread, every parallel product blocks the caller and
/// switches threads twice. A token needs hundreds of products, and the switches can take as long as the
/// products.
///
/// `work` must not wait for a thread that needs the rayon pool: this can deadlock.
pub fn on_rayon<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
