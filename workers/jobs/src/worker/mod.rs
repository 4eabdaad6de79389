//! Worker loop between queue, ledger and store.
//!
//! An item: received -> claimed -> run by the service -> report written whole -> end recorded in the ledger -> acknowledged.
//! A job: received -> accepted -> expanded, page by page -> (its items) -> results gathered -> finished -> event published.
//! The process may crash between any two steps; the next worker continues from the state in the ledger.

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::ledger::Ledger;
use crate::queue::{Delivery, Lane, Queue, process_span};
use crate::{Failure, ItemId, JobId};

mod settings;
mod stop;
mod observer;
mod service;
mod lease;
mod messages;
mod relay;
mod item;
mod run;
mod job;
mod sweep;
#[cfg(test)]
mod tests;

pub use observer::{Observer, Step};
pub use service::{Claimed, EndedJob, Page, RunContext, Service};
pub use settings::WorkerSettings;
pub use stop::Stop;

/// Fault of this worker. It has released its items and must not continue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this worker cannot continue: {0}")]
pub struct WorkerFault(pub Failure);

/// Worker that consumes messages and runs the jobs and items that they name.
pub struct Worker<S: Service> {
    pub service: Arc<S>,
    pub queue: Arc<dyn Queue>,
    pub ledger: Ledger,
    pub settings: WorkerSettings,
    pub observer: Arc<dyn Observer<S::Report>>,
    pub stop: Stop,
}

impl<S: Service> Worker<S> {
    /// Runs until it is stopped and its items have ended or were released.
    ///
    /// # Errors
    /// The worker itself is broken.
    pub async fn run(self) -> Result<(), WorkerFault> {
        let worker = Arc::new(self);
        let mut tasks = JoinSet::new();
        let Self { settings, .. } = &*worker;
        for (lane, slots) in [(Lane::Items, settings.items), (Lane::Urgent, settings.urgent)] {
            for _ in 0..slots {
                tasks.spawn(worker.clone().consume(lane));
            }
        }
        tasks.spawn(worker.clone().consume(Lane::Jobs));
        tasks.spawn(worker.clone().sweep());
        let aborting = tokio::spawn(worker.clone().abort_after_grace());
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended =
                ended.unwrap_or_else(|panic| Err(WorkerFault(Failure::new("internal", panic.to_string()))));
            if ended.is_err() {
                worker.stop.abort();
                result = result.and(ended);
            }
        }
        aborting.abort();
        result
    }

    async fn abort_after_grace(self: Arc<Self>) {
        self.stop.draining().await;
        tokio::time::sleep(self.settings.grace).await;
        self.stop.abort();
    }

    /// Consumes the messages of a lane, one at a time.
    async fn consume(self: Arc<Self>, lane: Lane) -> Result<(), WorkerFault> {
        let mut consumer = self.queue.consumer(lane).await;
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.draining() => return Ok(()),
                delivery = consumer.next() => delivery,
            };
            let span = process_span(&*self.queue, lane, &delivery);
            self.process(lane, delivery).instrument(span).await?;
        }
    }

    async fn process(&self, lane: Lane, delivery: Delivery) -> Result<(), WorkerFault> {
        self.observer.step(Step::Received(lane), None, None);
        match lane {
            Lane::Items | Lane::Urgent => self.item(delivery).await,
            Lane::Jobs => self.job(delivery).await,
        }
    }
}

/// Records the ids of the current work in the open span.
fn record_ids(job: &JobId, item: Option<&ItemId>) {
    let span = Span::current();
    span.record("job.id", job.as_str());
    if let Some(item) = item {
        span.record("item.id", item.as_str());
    }
}
