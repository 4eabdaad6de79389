//! New jobs and items, before the ledger has them.

use crate::queue::Address;
use crate::time::RequestTime;
use crate::trace::TraceContext;
use crate::{Failure, ItemId, JobId};

/// Job to be accepted by the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    pub id: JobId,
    /// Idempotency key. The same key with the same request is the same job, whatever its id; the same key with another
    /// request is an error. A job without its own key uses its id as the key.
    pub key: String,
    /// SHA-256 of the request, without ids.
    pub request_sha256: String,
    /// Body of the job message.
    pub message: String,
    /// Earliest start.
    pub not_before: Option<RequestTime>,
    /// Time at which the job expires.
    pub deadline: Option<RequestTime>,
    /// Parent trace of the work on the job.
    pub trace: TraceContext,
}

impl NewJob {
    /// Returns the failure for a job whose id or key belongs to another job.
    pub fn conflict_with(&self, existing: &JobId) -> Failure {
        let text = format!("{}: job {existing} has this id or key and asks for something else", self.id);
        Failure::new("idempotency_conflict", text)
    }
}

/// Item to be added to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewItem {
    pub id: ItemId,
    /// Queue of its messages. Only workers with its route run the item.
    pub queue: Address,
    /// Content of the item, as JSON of the service.
    pub message: String,
}
