//! The loop between queue, ledger and store.
//!
//! An item: received -> claimed -> done by the service -> report written whole -> the ledger says so -> acknowledged.
//! A job: received -> accepted -> expanded, page by page -> (its items) -> results gathered -> finished -> announced.
//! A process may die between any two of these; whoever comes next begins where the ledger says.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::job::{Counts, Failure, ItemEnd, ItemId, JobEnd, JobId, JobState, NewItem, NewJob, now};
use crate::ledger::{ItemClaim, JobRecord, Ledger, LedgerError};
use crate::queue::{Delivery, Event, Lane, Message, Queue, QueueError, Settled, processing};
use crate::retry::{Backoff, insist};
use crate::trace::{self, TraceContext};

/// How long one answer of the ledger may take.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

mod relay;
mod item;
mod job;
mod sweep;
#[cfg(test)]
mod tests;

/// What a service makes of jobs and items; the machinery around it owns queue, ledger, leases, retries and their order.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// What is known about an item when it is done, before it is written.
    type Report: Send + Sync;

    /// The schemas of messages, by which they are called in the queue.
    const JOB_KIND: &'static str;
    const ITEM_KIND: &'static str;

    /// Reads a message about a job.
    fn job(&self, message: &Message) -> Result<NewJob, Refusal>;

    /// Reads a message about an item.
    fn item(&self, message: &Message) -> Result<(JobId, ItemId), Refusal>;

    /// Whether somebody waits for an item, as it was entered in the ledger.
    fn is_urgent(&self, item: &str) -> bool;

    /// Lists the inputs of a job from `cursor` on.
    async fn expand(&self, job: &JobRecord, cursor: Option<&str>) -> Result<Page, Trouble>;

    /// The end of an item whose report an earlier attempt has written; asked before an item is done once more.
    async fn written(&self, item: &ItemClaim) -> Result<Option<ItemEnd>, Trouble>;

    /// Does an item, up to its report. Ends early, as [`Outcome::Cancelled`], when it is told to stop.
    async fn run(&self, item: &ItemClaim, running: &Running) -> Outcome<Self::Report>;

    /// Writes the report of an item whole, or of its failure. What stands there afterwards decides how the item has ended:
    /// it may be another attempt's report.
    async fn write(
        &self,
        item: &ItemClaim,
        result: Result<&Self::Report, &Failure>,
    ) -> Result<ItemEnd, Trouble>;

    /// Gathers the results of a job whose items have all ended; the completion marker last. May be repeated.
    async fn finalize(&self, ended: &EndedJob) -> Result<(), Trouble>;

    /// The news that a job has ended.
    fn ended(&self, ended: &EndedJob) -> Event;

    /// The news that a message was refused, for whoever sent it.
    fn refused(&self, message: &Message, why: &Failure) -> Event;
}

/// What the work on an item hears and tells while it goes on.
#[derive(Default)]
pub struct Running {
    /// Nobody wants its end any more.
    pub stop: CancellationToken,
    progress: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
}

impl Running {
    /// How far it has come, as JSON: asked with every heartbeat.
    pub fn tells(&self, progress: impl Fn() -> String + Send + Sync + 'static) {
        let _ = self.progress.set(Box::new(progress));
    }

    fn progress(&self) -> Option<String> {
        self.progress.get().map(|tell| tell())
    }
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It will never be: a dead letter.
    Hopeless(Failure),
    /// A newer build may understand it: it goes back for a while.
    Newer(Failure),
}

/// Inputs of a job, in a stable order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<NewItem>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The outside world failed; it may work later.
    #[error("{0}")]
    Transient(Failure),
    #[error("{0}")]
    Fatal(Failure),
}

impl Trouble {
    pub fn failure(&self) -> &Failure {
        match self {
            Trouble::Transient(failure) | Trouble::Fatal(failure) => failure,
        }
    }

    pub fn is_transient(&self) -> bool {
        matches!(self, Trouble::Transient(_))
    }
}

/// What has become of an item, and so what now.
#[derive(Debug)]
pub enum Outcome<R> {
    Done(R),
    /// The outside world failed: again later, counted.
    Retry {
        after: Option<Duration>,
        why: Failure,
    },
    /// There is no room for it here now: again later, not counted.
    Later(Failure),
    /// It will never succeed.
    Reject(Failure),
    /// This worker is broken: the item goes to another and has lost a worker, not an attempt; and this one ends.
    Unfit(Failure),
    /// Somebody wanted it to end: it goes back, not counted.
    Cancelled,
}

/// A job whose items have all ended, or that failed before it had any.
#[derive(Debug, Clone)]
pub struct EndedJob {
    pub record: JobRecord,
    pub end: JobEnd,
    pub counts: Counts,
}

/// A step of the loop that has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    Received(Lane),
    Claimed,
    /// The report of an earlier attempt was there.
    ReportFound,
    ReportWritten,
    Ended(&'a ItemEnd),
    Acknowledged,
    /// The connection was gone: the message will come again.
    AcknowledgementLost,
    Retried(&'a Failure),
    GivenBack,
    /// Another worker has the item now.
    FencedOff,
    /// The ledger was away for too long: the claim ends by itself.
    Unsettled,
    Refused(&'a Failure),
    Accepted,
    /// A page of items stands in the ledger.
    PageListed,
    /// A message about each of them has been sent.
    PageSent,
    Expanded,
    ResultsGathered,
    /// The job has ended, and the news of it stand in the outbox.
    Finished(JobState),
    /// News about the job have been sent. They are crossed out next.
    Announced,
    /// Messages that the sweep has sent again.
    Swept(usize),
}

/// One who watches the loop: metrics, logs, tests.
pub trait Observer: Send + Sync + 'static {
    fn step(&self, step: Step<'_>, job: Option<&JobId>, item: Option<&ItemId>);
}

/// How a worker works.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSettings {
    /// Names this worker in the ledger.
    pub name: String,
    /// Items in flight at once; each has a message of its own.
    pub items: usize,
    /// As many beside them for urgent items.
    pub urgent: usize,
    /// How long a claim holds without a word from its holder; and how often the holder says one.
    pub lease: Duration,
    pub heartbeat: Duration,
    /// How long an item may take.
    pub deadline: Duration,
    /// How long items may go on after the worker was told to end.
    pub grace: Duration,
    /// Attempts that an item has.
    pub attempts: u32,
    /// Workers that may be lost over an item, without a word or as unfit.
    pub losses: u32,
    pub backoff: Backoff,
    /// How long a step insists on ledger, store and queue before its message goes back.
    pub patience: Duration,
    pub sweep: Duration,
    /// A message that was sent so long ago, into a queue that is empty now, is taken for lost.
    pub forgotten: Duration,
}

/// The two ends of a worker: first it takes nothing new, then it lets go of what it has.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Stop {
    /// Take nothing new.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Give back what is in flight, too.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }
}

/// This worker is broken and has given its items back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this worker cannot go on: {0}")]
pub struct Unfit(pub Failure);

/// Takes messages and does what the ledger says about them.
pub struct Worker<S> {
    pub service: Arc<S>,
    pub queue: Arc<dyn Queue>,
    pub ledger: Ledger,
    pub settings: WorkerSettings,
    pub observer: Arc<dyn Observer>,
    pub stop: Stop,
}

impl<S: Service> Worker<S> {
    /// Works until it is told to stop, and has ended or given back what it had.
    ///
    /// # Errors
    /// The worker itself is broken.
    pub async fn run(self) -> Result<(), Unfit> {
        let worker = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (lane, slots) in [(Lane::Items, worker.settings.items), (Lane::Urgent, worker.settings.urgent)] {
            for _ in 0..slots {
                tasks.spawn(worker.clone().take(lane));
            }
        }
        tasks.spawn(worker.clone().take(Lane::Jobs));
        tasks.spawn(worker.clone().sweep());
        let late = tokio::spawn(worker.clone().abort_after_grace());
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.unwrap_or_else(|panic| Err(Unfit(Failure::new("internal", panic.to_string()))));
            if ended.is_err() {
                worker.stop.abort();
                result = result.and(ended);
            }
        }
        late.abort();
        result
    }

    async fn abort_after_grace(self: Arc<Self>) {
        self.stop.draining().await;
        tokio::time::sleep(self.settings.grace).await;
        self.stop.abort();
    }

    /// Takes the messages of a lane, one after the other.
    async fn take(self: Arc<Self>, lane: Lane) -> Result<(), Unfit> {
        let mut consumer = self.queue.consumer(lane).await;
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stop.draining() => return Ok(()),
                delivery = consumer.next() => delivery,
            };
            let span = processing(&*self.queue, lane, &delivery);
            self.process(lane, delivery).instrument(span).await?;
        }
    }

    async fn process(&self, lane: Lane, delivery: Delivery) -> Result<(), Unfit> {
        self.observer.step(Step::Received(lane), None, None);
        match lane {
            Lane::Items | Lane::Urgent => self.item(delivery).await,
            Lane::Jobs => {
                self.job(delivery).await;
                Ok(())
            }
        }
    }

    /// Asks the ledger, and insists for a while when it is away.
    async fn ask_ledger<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let ask = || in_time(ask());
        insist(self.settings.backoff, self.settings.patience, LedgerError::is_transient, ask).await
    }

    /// Says again and again that a claim is held; `lost` when it is no more.
    async fn hold<F>(&self, lost: &CancellationToken, mut extend: impl FnMut() -> F) -> Infallible
    where
        F: Future<Output = Result<bool, LedgerError>>,
    {
        loop {
            tokio::time::sleep(self.settings.heartbeat).await;
            match in_time(extend()).await {
                Ok(true) => {}
                Ok(false) => lost.cancel(),
                // The lease may last until the ledger is back.
                Err(error) => tracing::warn!(%error, "no heartbeat"),
            }
        }
    }

    /// Asks the service, and insists for a while when the outside world fails it.
    async fn ask_service<T, F>(&self, ask: impl FnMut() -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        insist(self.settings.backoff, self.settings.patience, Trouble::is_transient, ask).await
    }

    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        let Self { settings, queue, .. } = self;
        insist(settings.backoff, settings.patience, |_| true, || queue.send(lane, message)).await
    }

    /// A message about an item, and where it belongs.
    fn item_message(&self, job: &JobId, item: &ItemId, body: &str, trace: &TraceContext) -> (Lane, Message) {
        let lane = if self.service.is_urgent(body) { Lane::Urgent } else { Lane::Items };
        let message = Message::new(format!("{job}/{item}"), S::ITEM_KIND, body.to_owned());
        (lane, Message { trace: trace.clone(), ..message })
    }

    fn job_message(&self, job: &JobId, body: &str, trace: &TraceContext) -> Message {
        let message = Message::new(job.to_string(), S::JOB_KIND, body.to_owned());
        Message { trace: trace.clone(), ..message }
    }

    async fn acknowledge(&self, delivery: Delivery, job: Option<&JobId>, item: Option<&ItemId>) {
        let step = match delivery.ack().await {
            Settled::Known => Step::Acknowledged,
            Settled::Lost => Step::AcknowledgementLost,
        };
        self.observer.step(step, job, item);
    }

    /// A step could not be done in time: the message comes again later.
    async fn put_back(&self, delivery: Delivery, after: Duration, why: impl std::fmt::Display) {
        let message = delivery.message.id.clone();
        tracing::warn!(message, %why, "the message goes back");
        trace::failed("put_back");
        if let Err(error) = delivery.back(after).await {
            tracing::warn!(message, %error, "it goes back unacknowledged");
        }
    }

    /// Tells the sender and keeps the message as a dead letter.
    async fn refuse(&self, delivery: Delivery, refusal: Refusal) {
        let why = match refusal {
            Refusal::Newer(why) => return self.put_back(delivery, self.settings.backoff.most, why).await,
            Refusal::Hopeless(why) => why,
        };
        let Self { settings, queue, .. } = self;
        let news = self.service.refused(&delivery.message, &why);
        // No job is known that they are about, so they have no outbox: the message stays until they are sent.
        let told = insist(settings.backoff, settings.patience, |_| true, || queue.announce(&news)).await;
        if let Err(error) = told {
            return self.put_back(delivery, settings.backoff.most, error).await;
        }
        self.bury(delivery, &why).await;
        self.observer.step(Step::Refused(&why), None, None);
    }

    /// The same, when it is because of a job that is known.
    async fn refuse_beside(&self, existing: &JobId, delivery: Delivery, why: Failure) {
        let news = self.service.refused(&delivery.message, &why);
        if let Err(error) = self.ask_ledger(|| self.ledger.enter_news(existing, &news, now())).await {
            return self.put_back(delivery, self.settings.backoff.most, error).await;
        }
        self.bury(delivery, &why).await;
        self.observer.step(Step::Refused(&why), None, None);
        self.relay().await;
    }

    async fn bury(&self, delivery: Delivery, why: &Failure) {
        let message = delivery.message.id.clone();
        trace::failed(&why.code);
        if let Err(error) = delivery.bury(why).await {
            // Not as a dead letter when the ledger knows its end by now: then it is acknowledged.
            tracing::warn!(message, %error, "a dead letter could not be kept; the message comes again");
        }
    }
}

/// Names the work in the span that is open here.
fn about(job: &JobId, item: Option<&ItemId>) {
    let span = Span::current();
    span.record("job.id", job.as_str());
    if let Some(item) = item {
        span.record("item.id", item.as_str());
    }
}

/// A database that has died without a word would keep its askers for ever.
async fn in_time<T>(ask: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    tokio::time::timeout(LONGEST_SILENCE, ask).await.unwrap_or(Err(LedgerError::Silent(LONGEST_SILENCE)))
}
