//! Disposition of work that stopped without a result. Queue, ledger and worker all take this one type.

use crate::Failure;

/// Cost of a retry for the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCost {
    /// One attempt: the run failed.
    Attempt,
    /// One worker loss: the run took its worker down, or may have.
    WorkerLoss,
    /// Nothing: the failure says nothing about the item.
    Free,
}

/// Decision about work that stopped without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It will never succeed: the message becomes a dead letter, and the item or job fails.
    Fail,
    /// The outside world failed: the message is redelivered later.
    Retry(RetryCost),
    /// This worker is broken: another worker retries the item, a worker loss is counted, and this worker ends.
    WorkerFault,
    /// The user or the shutdown cancelled it: the message is requeued at once, and nothing is counted.
    Cancelled,
}

/// Failure of work that stopped without a result, with its disposition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Stopped {
    pub failure: Failure,
    pub disposition: Disposition,
}

impl Stopped {
    pub fn new(disposition: Disposition, failure: Failure) -> Self {
        Self { failure, disposition }
    }

    /// Creates a permanent failure.
    pub fn fail(failure: Failure) -> Self {
        Self::new(Disposition::Fail, failure)
    }

    /// Creates a failure to be retried at no cost.
    pub fn retry_free(failure: Failure) -> Self {
        Self::new(Disposition::Retry(RetryCost::Free), failure)
    }

    /// Creates the failure of work that another worker has claimed.
    pub fn stale_claim() -> Self {
        let failure = Failure::new("stale_claim", "another worker has claimed the job");
        Self::new(Disposition::Cancelled, failure)
    }

    /// Returns whether the same call may succeed later in this process.
    pub fn is_transient(&self) -> bool {
        match self.disposition {
            Disposition::Retry(_) => true,
            Disposition::Fail | Disposition::WorkerFault | Disposition::Cancelled => false,
        }
    }
}
