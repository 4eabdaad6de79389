//! Presence: heartbeats of the worker itself, so that others see which routes have a worker.

use std::sync::Arc;

use super::lease::with_timeout;
use super::{Service, Worker, WorkerFault};
use crate::ledger::LedgerError;

impl<S: Service> Worker<S> {
    /// Records a heartbeat of this worker at each interval, and removes the worker when it takes no more messages.
    pub(super) async fn be_present(self: Arc<Self>) -> Result<(), WorkerFault> {
        loop {
            if let Err(error) = with_timeout(self.record_presence()).await {
                tracing::warn!(%error, "no heartbeat of the worker");
            }
            tokio::select! {
                () = self.stop.draining() => break,
                () = tokio::time::sleep(self.settings.heartbeat) => {}
            }
        }
        if let Err(error) = with_timeout(self.ledger.remove_worker(&self.settings.name)).await {
            tracing::warn!(%error, "the worker stays recorded until its lease ends");
        }
        Ok(())
    }

    async fn record_presence(&self) -> Result<(), LedgerError> {
        let settings = &self.settings;
        let now = self.ledger.now().await?;
        self.ledger.record_worker(&settings.name, settings.route.as_ref(), now, settings.lease).await
    }
}
