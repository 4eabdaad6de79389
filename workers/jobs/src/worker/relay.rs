//! Relay: publishes the events in the ledger's outbox, whichever worker inserted them, and then deletes them.

use super::lease::with_timeout;
use super::{Service, Step, Worker};
use crate::ledger::{LedgerError, OutboxEvent};
use crate::queue::publish_traced;
use crate::time::later;

/// Maximum events that one call publishes. Further ones wait for the next call.
const MAX_EVENTS: usize = 100;

impl<S: Service> Worker<S> {
    /// Publishes the pending events. The next sweep retries those that fail.
    pub(super) async fn relay(&self) {
        for _ in 0..MAX_EVENTS {
            match self.relay_one().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "events stay in the outbox"),
            }
        }
    }

    /// Publishes one event; returns whether there may be more.
    async fn relay_one(&self) -> Result<bool, LedgerError> {
        let now = with_timeout(self.ledger.now()).await?;
        let Some(pending) = with_timeout(self.ledger.claim_events(now, self.settings.lease)).await? else {
            return Ok(false);
        };
        if let Err(error) = publish_traced(&*self.queue, &pending.event).await {
            tracing::warn!(job = %pending.job, %error, "cannot publish the event now");
            self.postpone(&pending).await?;
            return Ok(false);
        }
        self.observer.step(Step::EventPublished, Some(&pending.job), None);
        with_timeout(self.ledger.mark_published(&pending)).await?;
        Ok(true)
    }

    /// Postpones an event so that other events are tried first: perhaps only this one cannot be published.
    async fn postpone(&self, event: &OutboxEvent) -> Result<(), LedgerError> {
        let now = with_timeout(self.ledger.now()).await?;
        with_timeout(self.ledger.postpone_events(event, later(now, self.settings.backoff_most))).await
    }
}
