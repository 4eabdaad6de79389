//! Settings of the worker.

use std::time::Duration;

use crate::retry::Backoff;

/// Settings of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSettings {
    /// Name of this worker in the ledger.
    pub name: String,
    /// Maximum items in flight; each has a message of its own.
    pub slots: usize,
    /// Further slots for urgent items.
    pub urgent_slots: usize,
    /// Time that a claim holds without a heartbeat.
    pub lease: Duration,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Maximum time of one run of an item.
    pub deadline: Duration,
    /// Time that items have to finish after the worker began to drain.
    pub grace: Duration,
    /// Maximum attempts of an item.
    pub max_attempts: u32,
    /// Maximum workers that an item may lose, by crashes or faults.
    pub max_worker_losses: u32,
    /// Delays between retries.
    pub backoff: Backoff,
    /// Time that a step retries ledger, store and queue before its message is requeued.
    pub retry_timeout: Duration,
    /// Interval of sweeps.
    pub sweep_interval: Duration,
    /// Age at which a message counts as lost when its queue is empty.
    pub message_lost_after: Duration,
}
