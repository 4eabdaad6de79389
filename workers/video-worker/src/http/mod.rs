//! The HTTP server of a worker: health, metrics, pages.

use axum::Router;
use tokio::net::TcpListener;

pub mod health;
mod metrics;
pub mod pages;

/// Serves requests until `end`.
///
/// # Errors
/// The listener breaks.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving /live /ready /metrics");
    axum::serve(listener, routes).with_graceful_shutdown(end).await
}
