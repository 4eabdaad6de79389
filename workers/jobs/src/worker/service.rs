//! Interface between the worker and the service that gives jobs and items their meaning.

use std::sync::OnceLock;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::job::{NewItem, NewJob};
use crate::ledger::{ItemClaim, JobClaim, JobRecord};
use crate::queue::{Event, Message};
use crate::state::{Counts, ItemEnd, JobEnd};
use crate::{Failure, Stopped};

/// Service that lists, runs and reports items. The worker owns queue, ledger, leases, retries and the order of steps.
///
/// Each error carries its [`Disposition`](crate::Disposition), so the service decides what is retried, and the worker acts
/// on it.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Content of an item, parsed from the ledger once per claim.
    type Item: Send + Sync;
    /// Report of a finished item, before it is written to the store.
    type Report: Send + Sync;
    /// Sums over the results of a job.
    type Summary: Send + Sync;

    /// Schema of job messages, which is their `kind` in the queue.
    const JOB_SCHEMA: &'static str;
    /// Schema of item messages.
    const ITEM_SCHEMA: &'static str;
    /// Schema of the item messages of the previous version, whose bodies are whole items. They are still accepted.
    const PREVIOUS_ITEM_SCHEMA: Option<&'static str> = None;

    /// Parses a job message.
    fn parse_job(&self, message: &Message) -> Result<NewJob, Stopped>;

    /// Parses the content of a claimed item.
    fn parse_item(&self, claim: &ItemClaim) -> Result<Self::Item, Stopped>;

    /// Lists one page of a job's inputs, from `cursor` on.
    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Stopped>;

    /// Returns the end of an item whose report an earlier attempt wrote. The worker calls it before each further attempt. A
    /// permanent failure, such as another object in the place of the report, ends the item without a report.
    async fn find_report(&self, item: &Claimed<Self::Item>) -> Result<Option<ItemEnd>, Stopped>;

    /// Runs an item and returns its report. Ends early as cancelled when `context.stop` is cancelled.
    async fn run(&self, item: &Claimed<Self::Item>, context: &RunContext) -> Result<Self::Report, Stopped>;

    /// Writes the report of an item, or of its failure, whole. Returns the end that the stored report states: it may be the
    /// report of another attempt. A permanent failure ends the item without a report.
    async fn write(
        &self,
        item: &Claimed<Self::Item>,
        result: Result<&Self::Report, &Failure>,
    ) -> Result<ItemEnd, Stopped>;

    /// Gathers the results of a job whose items have all ended. Succeeded items without a report fail, in the ledger too. May
    /// be repeated.
    async fn gather(&self, claim: &JobClaim) -> Result<Self::Summary, Stopped>;

    /// Writes the completion marker of a job after its results. May be repeated.
    async fn complete(&self, ended: &EndedJob, summary: &Self::Summary) -> Result<(), Stopped>;

    /// Builds the event of a job's end.
    fn end_event(&self, ended: &EndedJob) -> Event;

    /// Builds the event of a refused message, addressed to its sender.
    fn refusal_event(&self, message: &Message, reason: &Failure) -> Event;
}

/// Claimed item with its parsed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed<I> {
    pub claim: ItemClaim,
    pub item: I,
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

/// Page of a job's inputs, in a stable order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<NewItem>,
    /// Place after this page, and whatever else the service keeps about the listing. The ledger keeps the cursor of the last
    /// page too, unless it is empty.
    pub cursor: String,
    pub is_last: bool,
}

impl Page {
    /// Returns a page with the cursor of the next one; `None` for the last page.
    pub fn until(items: Vec<NewItem>, next: Option<String>) -> Self {
        Self { items, is_last: next.is_none(), cursor: next.unwrap_or_default() }
    }
}

/// Job whose items have all ended, or that failed before it had any.
#[derive(Debug, Clone)]
pub struct EndedJob {
    pub record: JobRecord,
    pub end: JobEnd,
    pub counts: Counts,
}
