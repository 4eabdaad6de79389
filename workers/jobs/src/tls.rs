//! The cryptography of TLS connections.

// Only for its features: object_store and the exporter of traces send requests with it.
use reqwest as _;

/// Installs ring for every HTTPS client of this process. Call it before the first client is built; further calls have no
/// effect.
pub fn install() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
