//! The cryptography of TLS connections.

/// Installs ring for every HTTPS client of this process. Call it before the first client is built; further calls have no
/// effect.
pub fn install() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
