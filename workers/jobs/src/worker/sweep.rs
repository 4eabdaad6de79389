//! Sweep: finds unclaimed rows in the ledger whose message is missing, and sends one; publishes pending events.

use std::sync::Arc;
use std::time::Duration;

use super::lease::with_timeout;
use super::{Service, Step, Worker, WorkerFault};
use crate::ledger::{LedgerError, PendingJobMessage, PendingMessage};
use crate::message::{item_message, job_message};
use crate::queue::{Lane, send_traced};
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
        let mut messages = Vec::new();
        for job in with_timeout(self.ledger.overdue_jobs(now, MAX_ROWS)).await? {
            if with_timeout(self.ledger.end_early(&job, EarlyEnd::Expired, now)).await? {
                tracing::info!(%job, "the job's deadline has passed");
            }
        }
        let mut items = with_timeout(self.ledger.expired_items(now, MAX_ROWS)).await?;
        // While a lane holds messages, the one about an item or a job may still be among them.
        if self.is_empty(Lane::Items).await && self.is_empty(Lane::Urgent).await {
            items.extend(with_timeout(self.ledger.unannounced_items(now, min_age, MAX_ROWS)).await?);
        }
        messages.extend(items.iter().map(|pending| {
            let PendingMessage { job, item, lane, trace } = pending;
            (*lane, item_message(S::ITEM_SCHEMA, job, item, *lane, trace))
        }));
        // A job that has just become due has no message yet, however young its last one is.
        let min_age = if self.is_empty(Lane::Jobs).await { min_age } else { Duration::MAX };
        let jobs = with_timeout(self.ledger.due_jobs(now, min_age, MAX_ROWS)).await?;
        messages.extend(jobs.iter().map(|pending| {
            let PendingJobMessage { id, message, trace } = pending;
            (Lane::Jobs, job_message(S::JOB_SCHEMA, id, message, trace))
        }));
        let mut sent = 0;
        for (lane, message) in &messages {
            // A later sweep finds the rows whose message cannot be sent now.
            if let Err(error) = send_traced(&*self.queue, *lane, message).await {
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
