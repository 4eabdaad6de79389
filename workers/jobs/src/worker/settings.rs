//! Settings of the worker.

use std::time::Duration;

use serde::Deserialize;

use crate::duration;
use crate::queue::Route;
use crate::retry::Backoff;

/// Settings of a worker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WorkerSettings {
    /// Name of this worker in the ledger.
    pub name: String,
    /// Route of this worker: it also runs the items of this route. Not a setting: the service knows it.
    #[serde(skip)]
    pub route: Option<Route>,
    /// Maximum items in flight from each queue, that of all workers and that of the route; each has a message of its own.
    pub items: usize,
    /// Maximum urgent items in flight, in addition.
    pub urgent: usize,
    /// Time that a claim holds without a heartbeat.
    #[serde(with = "duration")]
    pub lease: Duration,
    /// Interval of heartbeats.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// Maximum time of one run of an item.
    #[serde(with = "duration")]
    pub item_deadline: Duration,
    /// Time that items have to finish after the worker began to drain.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// Maximum attempts of an item.
    pub attempts: u32,
    /// Maximum workers that an item may lose, by crashes or faults.
    pub losses: u32,
    /// Delay after the first failure; it doubles each time.
    #[serde(with = "duration")]
    pub backoff_first: Duration,
    /// Maximum delay after a failure.
    #[serde(with = "duration")]
    pub backoff_most: Duration,
    /// Time that a step retries ledger, store and queue before its message is requeued.
    #[serde(with = "duration")]
    pub retry_timeout: Duration,
    /// Interval of sweeps.
    #[serde(with = "duration")]
    pub sweep: Duration,
    /// Age at which a message counts as lost when its queue is empty.
    #[serde(with = "duration")]
    pub forgotten: Duration,
}

impl WorkerSettings {
    /// Returns the delays between retries.
    pub fn backoff(&self) -> Backoff {
        Backoff { first: self.backoff_first, max: self.backoff_most }
    }
}
