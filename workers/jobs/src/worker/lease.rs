//! Calls to ledger and service with timeouts and retries, and the renewal of leases.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Service, Worker};
use crate::ledger::LedgerError;
use crate::retry::retry_with_backoff;
use crate::time::Millis;
use crate::{Disposition, Failure, Stopped};

/// Maximum time of one call to the ledger.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);

impl<S: Service> Worker<S> {
    /// Calls the ledger with its current time, and retries transient errors.
    pub(super) async fn call_ledger<T, F>(&self, call: impl Fn(Millis) -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let call = &call;
        let call = || with_timeout(async move { call(self.ledger.now().await?).await });
        let settings = &self.settings;
        retry_with_backoff(settings.backoff(), settings.retry_timeout, LedgerError::is_transient, call).await
    }

    /// Calls the service, and retries transient errors until the worker releases its work.
    pub(super) async fn call_service<T, F>(&self, call: impl FnMut() -> F) -> Result<T, Stopped>
    where
        F: Future<Output = Result<T, Stopped>>,
    {
        let Self { settings, stop, .. } = self;
        tokio::select! {
            result = retry_with_backoff(settings.backoff(), settings.retry_timeout, Stopped::is_transient, call) => result,
            () = stop.aborted() => Err(released()),
        }
    }

    /// Renews a lease with every heartbeat. Cancels `lost` when another worker has claimed the row.
    pub(super) async fn renew_lease<F>(
        &self,
        lost: &CancellationToken,
        renew: impl Fn(Millis) -> F,
    ) -> Infallible
    where
        F: Future<Output = Result<bool, LedgerError>>,
    {
        loop {
            tokio::time::sleep(self.settings.heartbeat).await;
            match with_timeout(async { renew(self.ledger.now().await?).await }).await {
                Ok(true) => {}
                Ok(false) => lost.cancel(),
                // The ledger may be back before the lease ends.
                Err(error) => tracing::warn!(%error, "no heartbeat"),
            }
        }
    }
}

/// Stops work that the worker releases because it is stopping.
pub(super) fn released() -> Stopped {
    Stopped::new(Disposition::Cancelled, Failure::new("released", "this worker is stopping"))
}

/// Bounds a call to the ledger: a dead TCP peer never answers.
pub(super) async fn with_timeout<T>(
    call: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    tokio::time::timeout(LEDGER_TIMEOUT, call).await.unwrap_or(Err(LedgerError::Timeout(LEDGER_TIMEOUT)))
}
