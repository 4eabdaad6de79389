//! The sweep: finds in the ledger what nobody holds and no message tells about, and sends one; and news that are not sent.

use std::sync::Arc;
use std::time::Duration;

use super::{Service, Step, Unfit, Worker, in_time};
use crate::job::{EarlyEnd, now};
use crate::ledger::LedgerError;
use crate::queue::Lane;

/// Rows that one sweep takes of each kind.
const AT_ONCE: u32 = 500;

impl<S: Service> Worker<S> {
    pub(super) async fn sweep(self: Arc<Self>) -> Result<(), Unfit> {
        // A queue that was in a process that is gone has lost everything; and a little too much is no harm to another.
        let mut silent_for = Duration::ZERO;
        loop {
            let swept = tokio::select! {
                () = self.stop.draining() => return Ok(()),
                swept = self.swept(silent_for) => swept,
            };
            tokio::select! {
                () = self.stop.draining() => return Ok(()),
                () = self.relay() => {}
            }
            match swept {
                Ok(0) => {}
                Ok(sent) => self.observer.step(Step::Swept(sent), None, None),
                Err(error) => tracing::warn!(%error, "a sweep has failed"),
            }
            silent_for = self.settings.forgotten;
            tokio::select! {
                () = self.stop.draining() => return Ok(()),
                () = tokio::time::sleep(self.settings.sweep) => {}
            }
        }
    }

    async fn swept(&self, silent_for: Duration) -> Result<usize, LedgerError> {
        let mut messages = Vec::new();
        for job in in_time(self.ledger.overdue_jobs(now(), AT_ONCE)).await? {
            if in_time(self.ledger.end_early(&job, EarlyEnd::Expired, now())).await? {
                tracing::info!(%job, "its deadline has passed");
            }
        }
        let mut items = in_time(self.ledger.expired_items(now(), AT_ONCE)).await?;
        // In a queue that holds messages the one about an item or a job may yet come.
        if self.is_empty(Lane::Items).await && self.is_empty(Lane::Urgent).await {
            items.extend(in_time(self.ledger.forgotten_items(now(), silent_for, AT_ONCE)).await?);
        }
        messages.extend(
            items.iter().map(|bell| self.item_message(&bell.job, &bell.item, &bell.message, &bell.trace)),
        );
        // Whose time has come has no message yet.
        let silent_for = if self.is_empty(Lane::Jobs).await { silent_for } else { Duration::MAX };
        let jobs = in_time(self.ledger.due_jobs(now(), silent_for, AT_ONCE)).await?;
        messages.extend(
            jobs.iter().map(|bell| (Lane::Jobs, self.job_message(&bell.id, &bell.message, &bell.trace))),
        );
        let mut sent = 0;
        for (lane, message) in &messages {
            // What cannot be sent now is found again by a later sweep.
            if let Err(error) = self.queue.send(*lane, message).await {
                tracing::warn!(%error, "a sweep has ended early");
                break;
            }
            sent += 1;
        }
        Ok(sent)
    }

    async fn is_empty(&self, lane: Lane) -> bool {
        self.queue.waiting(lane).await.is_ok_and(|waiting| waiting == 0)
    }
}
