//! Worker loop between queue, ledger and store.
//!
//! An item: received -> claimed -> run by the service -> report written whole -> end recorded in the ledger -> acknowledged.
//! A job: received -> accepted -> expanded, page by page -> (its items) -> results gathered -> finished -> event published.
//! The process may crash between any two steps; the next worker continues from the state in the ledger.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::ledger::Ledger;
use crate::queue::{Address, Consumer, Delivery, Lane, Queue, Route, process_span};
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
mod presence;
#[cfg(test)]
mod tests;

pub use observer::{Observer, Step};
pub use service::{Claimed, EndedJob, Page, RunContext, Service};
pub use settings::WorkerSettings;
pub use stop::Stop;

/// Time for releasing claims and messages after the grace of a stopped worker.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

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
            for route in worker.routes() {
                let from = Address { lane, route: route.cloned() };
                for _ in 0..slots {
                    // Made before the first sweep, which asks the queue of the route for its length.
                    let consumer = worker.queue.consumer(&from).await;
                    tasks.spawn(worker.clone().consume(from.clone(), consumer));
                }
            }
        }
        let jobs = Address::from(Lane::Jobs);
        let consumer = worker.queue.consumer(&jobs).await;
        tasks.spawn(worker.clone().consume(jobs, consumer));
        tasks.spawn(worker.clone().sweep());
        tasks.spawn(worker.clone().be_present());
        let aborting = tokio::spawn(worker.clone().abort_after_grace());
        let mut result = Ok(());
        let mut overdue = pin!(worker.clone().release_overdue());
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                () = &mut overdue => {
                    tracing::warn!("ledger or queue do not answer: unreleased claims end with their leases");
                    None
                }
            };
            let Some(ended) = ended else { break };
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

    /// Ends when the time is up that ledger and queue have to take back the work of this worker.
    async fn release_overdue(self: Arc<Self>) {
        self.stop.aborted().await;
        tokio::time::sleep(RELEASE_TIMEOUT).await;
    }

    /// Returns the routes of the items that this worker runs; `None` stands for the items of all workers.
    fn routes(&self) -> impl Iterator<Item = Option<&Route>> {
        let own = self.settings.route.as_ref();
        std::iter::once(None).chain(own.map(Some))
    }

    /// Consumes the messages of a queue, one at a time.
    async fn consume(
        self: Arc<Self>,
        from: Address,
        mut consumer: Box<dyn Consumer>,
    ) -> Result<(), WorkerFault> {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.draining() => return Ok(()),
                delivery = consumer.next() => delivery,
            };
            let span = process_span(&*self.queue, &from, &delivery);
            self.process(from.lane, delivery).instrument(span).await?;
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
