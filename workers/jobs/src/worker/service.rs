//! Interface between the worker and the service that gives jobs and items their meaning.

use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::job::{NewItem, NewJob};
use crate::ledger::{ItemClaim, JobRecord};
use crate::queue::{Event, Message};
use crate::state::{Counts, ItemEnd, JobEnd};
use crate::{Failure, ItemId, JobId};

/// Service that lists, runs and reports items. The worker owns queue, ledger, leases, retries and the order of steps.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Report of a finished item, before it is written to the store.
    type Report: Send + Sync;

    /// Schema of job messages, which is their `kind` in the queue.
    const JOB_KIND: &'static str;
    /// Schema of item messages.
    const ITEM_KIND: &'static str;

    /// Parses a job message.
    fn parse_job(&self, message: &Message) -> Result<NewJob, Refusal>;

    /// Parses an item message.
    fn parse_item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal>;

    /// Returns whether an item, as the ledger keeps it, belongs to the urgent lane.
    fn is_urgent(&self, item: &str) -> bool;

    /// Lists one page of a job's inputs, from `cursor` on.
    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble>;

    /// Returns the end of an item whose report an earlier attempt wrote. The worker calls it before each further attempt.
    async fn find_report(&self, item: &ItemClaim) -> Result<Option<ItemEnd>, Trouble>;

    /// Runs an item and returns its report. Ends early with [`Outcome::Cancelled`] when `context.stop` is cancelled.
    async fn run(&self, item: &ItemClaim, context: &RunContext) -> Outcome<Self::Report>;

    /// Writes the report of an item, or of its failure, whole. Returns the end that the stored report states: it may be the
    /// report of another attempt.
    async fn write(
        &self,
        item: &ItemClaim,
        result: Result<&Self::Report, &Failure>,
    ) -> Result<ItemEnd, Trouble>;

    /// Gathers the results of a job whose items have all ended, and writes the completion marker last. May be repeated.
    async fn finalize(&self, ended: &EndedJob) -> Result<(), Trouble>;

    /// Builds the event of a job's end.
    fn end_event(&self, ended: &EndedJob) -> Event;

    /// Builds the event of a refused message, addressed to its sender.
    fn refusal_event(&self, message: &Message, reason: &Failure) -> Event;
}

/// Cancellation token and progress callback of one run of an item.
pub struct RunContext {
    /// Cancelled when the result is no longer needed.
    pub stop: CancellationToken,
    progress: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
}

impl RunContext {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop, progress: OnceLock::new() }
    }

    /// Sets the callback that returns the progress as JSON. The worker calls it with every heartbeat.
    pub fn report_progress_with(&self, progress: impl Fn() -> String + Send + Sync + 'static) {
        let _ = self.progress.set(Box::new(progress));
    }

    pub(super) fn progress(&self) -> Option<String> {
        self.progress.get().map(|progress| progress())
    }
}

/// Reason to refuse a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No build will ever accept it: it becomes a dead letter.
    Permanent(Failure),
    /// A newer build may understand it: it is redelivered later.
    NewerSchema(Failure),
}

/// Page of a job's inputs, in a stable order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<NewItem>,
    /// Cursor of the next page; `None` after the last one.
    pub next: Option<String>,
}

/// Error of a step of the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The outside world failed; a later call may succeed.
    #[error("{0}")]
    Transient(Failure),
    #[error("{0}")]
    Permanent(Failure),
}

impl Trouble {
    pub fn failure(&self) -> &Failure {
        match self {
            Trouble::Transient(failure) | Trouble::Permanent(failure) => failure,
        }
    }

    pub fn is_transient(&self) -> bool {
        matches!(self, Trouble::Transient(_))
    }
}

/// Result of one run of an item, which decides the next step.
#[derive(Debug)]
pub enum Outcome<R> {
    Done(R),
    /// The outside world failed: retry later, and count an attempt.
    Retry {
        after: Option<Duration>,
        reason: Failure,
    },
    /// This worker has no room for it now: retry later, and count nothing.
    Later(Failure),
    /// It will never succeed.
    Reject(Failure),
    /// This worker is broken: another worker retries the item, a worker loss is counted, and this worker ends.
    WorkerFault(Failure),
    /// It was cancelled: it is requeued, and nothing is counted.
    Cancelled,
}

/// Job whose items have all ended, or that failed before it had any.
#[derive(Debug, Clone)]
pub struct EndedJob {
    pub record: JobRecord,
    pub end: JobEnd,
    pub counts: Counts,
}
