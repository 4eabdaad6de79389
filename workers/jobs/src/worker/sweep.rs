//! Sweep: finds unclaimed rows in the ledger whose message is missing, and sends one; publishes pending events.

use std::sync::Arc;
use std::time::Duration;

use super::lease::with_timeout;
use super::{Service, Step, Worker, WorkerFault};
use crate::ledger::{LedgerError, PendingJobMessage, PendingMessage};
use crate::message::{item_message, job_message};
use crate::queue::{Address, Lane, QueueError, Route, Sent, send_traced};
use crate::state::EarlyEnd;

/// Maximum rows of each kind that one sweep takes.
const MAX_ROWS: u32 = 500;

impl<S: Service> Worker<S> {
    pub(super) async fn sweep(self: Arc<Self>) -> Result<(), WorkerFault> {
        // The first sweep takes every message as lost: an in-memory queue loses all with its process. For another queue a
        // few duplicates do no harm.
        let mut min_age = Duration::ZERO;
        loop {
            let swept = tokio::select! {
                () = self.stop.draining() => return Ok(()),
                swept = self.sweep_once(min_age) => swept,
            };
            tokio::select! {
                () = self.stop.draining() => return Ok(()),
                () = self.relay() => {}
            }
            match swept {
                Ok(0) => {}
                Ok(sent) => self.observer.step(Step::Republished(sent), None, None),
                Err(error) => tracing::warn!(%error, "a sweep has failed"),
            }
            min_age = self.settings.forgotten;
            tokio::select! {
                () = self.stop.draining() => return Ok(()),
                () = tokio::time::sleep(self.settings.sweep) => {}
            }
        }
    }

    async fn sweep_once(&self, min_age: Duration) -> Result<usize, LedgerError> {
        let now = with_timeout(self.ledger.now()).await?;
        for job in with_timeout(self.ledger.overdue_jobs(now, MAX_ROWS)).await? {
            if with_timeout(self.ledger.end_early(&job, EarlyEnd::Expired, now)).await? {
                tracing::info!(%job, "the job's deadline has passed");
            }
        }
        let mut items = with_timeout(self.ledger.expired_items(now, MAX_ROWS)).await?;
        // While a queue holds messages, the one about an item or a job may still be among them.
        for route in self.routes() {
            let is_empty =
                self.is_empty(Lane::Items, route).await && self.is_empty(Lane::Urgent, route).await;
            let lost = self.ledger.unannounced_items(route, now, is_empty.then_some(min_age), MAX_ROWS);
            items.extend(with_timeout(lost).await?);
        }
        // A job that has just become due has no message yet, however young its last one is.
        let min_age = if self.is_empty(Lane::Jobs, None).await { min_age } else { Duration::MAX };
        let jobs = with_timeout(self.ledger.due_jobs(now, min_age, MAX_ROWS)).await?;
        // A later sweep finds the rows whose message cannot be sent now.
        let mut sent = 0;
        let outcome = self.send_again(&items, &jobs, &mut sent).await;
        outcome.unwrap_or_else(|error| tracing::warn!(%error, "a sweep has ended early"));
        Ok(sent)
    }

    /// Sends messages about these items and jobs, and counts them in `sent`.
    async fn send_again(
        &self,
        items: &[PendingMessage],
        jobs: &[PendingJobMessage],
        sent: &mut usize,
    ) -> Result<(), QueueError> {
        for PendingMessage { job, item, queue, trace } in items {
            let message = item_message(S::ITEM_SCHEMA, job, item, queue.lane, trace);
            match send_traced(&*self.queue, queue, &message).await? {
                Sent::Confirmed => *sent += 1,
                Sent::NoQueue => self.mark_unannounced(job, &[item]).await,
            }
        }
        for PendingJobMessage { id, message, trace } in jobs {
            let message = job_message(S::JOB_SCHEMA, id, message, trace);
            let _confirmed = send_traced(&*self.queue, &Lane::Jobs.into(), &message).await?;
            *sent += 1;
        }
        Ok(())
    }

    async fn is_empty(&self, lane: Lane, route: Option<&Route>) -> bool {
        let queue = Address { lane, route: route.cloned() };
        self.queue.waiting(&queue).await.is_ok_and(|waiting| waiting == 0)
    }
}
