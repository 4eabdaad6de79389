//! The sweep: finds in the ledger what nobody holds and no message tells about, and sends one.

use std::sync::Arc;

use super::{Service, Step, Unfit, Worker};
use crate::job::now;
use crate::ledger::{Bell, LedgerError};
use crate::queue::Lane;

/// Rows that one sweep takes of each kind.
const AT_ONCE: u32 = 500;

impl<S: Service> Worker<S> {
    pub(super) async fn sweep(self: Arc<Self>) -> Result<(), Unfit> {
        loop {
            tokio::select! {
                () = self.stop.draining() => return Ok(()),
                () = tokio::time::sleep(self.settings.sweep) => {}
            }
            match self.swept().await {
                Ok(0) => {}
                Ok(sent) => self.observer.step(Step::Swept(sent), None, None),
                Err(error) => tracing::warn!(%error, "a sweep has failed"),
            }
        }
    }

    async fn swept(&self) -> Result<usize, LedgerError> {
        let mut items = self.ledger.expired_items(now(), AT_ONCE).await?;
        // In a queue that holds messages the one about an item may yet come.
        if self.queue.waiting(Lane::Items).await.is_ok_and(|waiting| waiting == 0) {
            items.extend(self.ledger.forgotten_items(now(), self.settings.forgotten, AT_ONCE).await?);
        }
        let jobs = self.ledger.due_jobs(now(), self.settings.forgotten, AT_ONCE).await?;
        let mut sent = 0;
        for Bell { job, item, message } in &items {
            sent += self.ring(Lane::Items, &self.item_message(job, item, message)).await;
        }
        for bell in &jobs {
            sent += self.ring(Lane::Jobs, &self.job_message(&bell.id, &bell.message)).await;
        }
        Ok(sent)
    }

    /// How many messages were sent: what could not be sent now is found again by a later sweep.
    async fn ring(&self, lane: Lane, message: &crate::queue::Message) -> usize {
        match self.queue.send(lane, message).await {
            Ok(()) => 1,
            Err(error) => {
                tracing::warn!(%error, message = message.id, "could not be sent again");
                0
            }
        }
    }
}
