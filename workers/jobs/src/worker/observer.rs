//! Notifications about the steps of the worker.

use crate::queue::Lane;
use crate::state::{ItemEnd, JobState};
use crate::{Failure, ItemId, JobId};

/// Step that the worker has just completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    Received(Lane),
    Claimed,
    /// An earlier attempt had written the report.
    ReportFound,
    ReportWritten,
    Ended(&'a ItemEnd),
    Acknowledged,
    /// The connection was lost: the message will be delivered again.
    AcknowledgementLost,
    Retried(&'a Failure),
    Released,
    /// Another worker has claimed the item since.
    StaleClaim,
    /// The ledger did not answer in time: the claim ends with its lease.
    Unsettled,
    Refused(&'a Failure),
    Accepted,
    /// The ledger has a page of items.
    PageListed,
    /// A message about each item of the page has been sent.
    PageSent,
    Expanded,
    ResultsGathered,
    /// The job has ended, and its event is in the outbox.
    Finished(JobState),
    /// An event of the job has been published. The worker removes it from the outbox next.
    EventPublished,
    /// Number of messages that the sweep has sent again.
    Republished(usize),
}

/// Observer of the worker's steps and of reports `R`: metrics, logs, tests.
pub trait Observer<R>: Send + Sync + 'static {
    /// Called after each step.
    fn step(&self, step: Step<'_>, job: Option<&JobId>, item: Option<&ItemId>);

    /// Called when the service has run an item, before its report is written.
    fn report(&self, _report: &R) {}
}
