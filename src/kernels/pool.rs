//! Where the products of a model are computed.

/// Runs `work` on one of rayon's threads. From any other thread each product is handed over and waited for asleep: two
/// switches of threads for every one of the hundreds of products of a token, which can take as long as the products.
///
/// `work` must not wait for a thread that needs the pool itself.
pub fn in_the_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
