//! A job, from its message to its end.

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::{EndedJob, Service, Step, Trouble, Worker, about};
use crate::job::{Counts, EarlyEnd, Failure, JobEnd, JobId, JobState, Millis, NewItem, NewJob, later, now};
use crate::ledger::{Accepted, JobClaim, JobRecord, LedgerError};
use crate::queue::{Delivery, QueueError};
use crate::trace;

/// Messages about items that are on their way to the queue at once.
const SENDING: usize = 64;

/// Items that are cancelled in one statement.
const CANCELLED_AT_ONCE: u32 = 2000;

/// Why work on a job has stopped before its end.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Service(#[from] Trouble),
    /// Another worker is at it.
    #[error("another worker has taken over")]
    FencedOff,
    #[error("this worker is told to stop")]
    Stopped,
}

impl Halt {
    /// For traces.
    fn code(&self) -> &str {
        match self {
            Halt::Ledger(_) => "ledger",
            Halt::Queue(_) => "queue",
            Halt::Service(trouble) => &trouble.failure().code,
            Halt::FencedOff => "fenced_off",
            Halt::Stopped => "given_back",
        }
    }
}

impl<S: Service> Worker<S> {
    pub(super) async fn job(&self, delivery: Delivery) {
        let new = match self.service.job(&delivery.message) {
            Ok(new) => NewJob { trace: new.trace.or(&delivery.message.trace), ..new },
            Err(refusal) => return self.refuse(delivery, refusal).await,
        };
        let record = match self.ask_ledger(|| self.ledger.accept(&new, now())).await {
            Ok(Accepted::New(record) | Accepted::Same(record)) => record,
            Ok(Accepted::Conflict { existing }) => {
                let why = new.conflict_with(&existing);
                return self.refuse_beside(&existing, delivery, why).await;
            }
            Err(error) => return self.put_back(delivery, self.settings.backoff.most, error).await,
        };
        about(&record.id, None);
        self.observer.step(Step::Accepted, Some(&record.id), None);
        if record.state.is_end() && delivery.message.reply_to.is_some() {
            return self.tell_again(record, delivery).await;
        }
        match self.next_step(&record).await {
            Ok(()) => self.acknowledge(delivery, Some(&record.id), None).await,
            Err(Halt::Stopped) => {
                delivery.release().await;
            }
            Err(halt) => self.put_back(delivery, self.settings.backoff.most, halt).await,
        }
    }

    async fn next_step(&self, record: &JobRecord) -> Result<(), Halt> {
        if record.state.is_end() {
            return Ok(());
        }
        if record.total.is_none() || record.state == JobState::Finalizing {
            self.attend(&record.id).await?;
        }
        self.finalize_if_all_ended(&record.id).await
    }

    /// Does what is next for a job after one of its items has ended. What fails is tried again by the sweep.
    pub(super) async fn look_after(&self, job: &JobId) {
        if let Err(halt) = self.finalize_if_all_ended(job).await {
            tracing::warn!(%job, %halt, "left for the sweep");
        }
    }

    async fn finalize_if_all_ended(&self, job: &JobId) -> Result<(), Halt> {
        if self.ask_ledger(|| self.ledger.any_open(job)).await? {
            return Ok(());
        }
        self.attend(job).await
    }

    /// Lists the inputs of a job or gathers its results, unless it has ended or somebody else is at it.
    async fn attend(&self, job: &JobId) -> Result<(), Halt> {
        let Self { settings, .. } = self;
        let claim =
            self.ask_ledger(|| self.ledger.claim_job(job, &settings.name, now(), settings.lease)).await?;
        let Some(claim) = claim else { return Ok(()) };
        let lost = CancellationToken::new();
        let result = tokio::select! {
            result = self.advance(&claim) => result,
            () = lost.cancelled() => Err(Halt::FencedOff),
            never = self.hold(&lost, || self.ledger.extend_job(&claim, now(), settings.lease)) => match never {},
        };
        match &result {
            Ok(()) => self.relay().await,
            Err(halt) => {
                trace::failed(halt.code());
                self.let_go(&claim, Some(later(now(), settings.backoff.most))).await;
            }
        }
        result
    }

    /// Gives a claim back; somebody looks at the job at `due`, or when its last item has ended.
    async fn let_go(&self, claim: &JobClaim, due: Option<Millis>) {
        // Without it the lease ends by itself.
        if let Err(error) = self.ledger.release_job(claim, due).await {
            tracing::warn!(%error, job = %claim.id, "the claim is left to its lease");
        }
    }

    async fn advance(&self, claim: &JobClaim) -> Result<(), Halt> {
        let result = match (claim.record.state, claim.record.total) {
            (JobState::Finalizing, _) | (_, Some(_)) => {
                self.finalize(claim)
                    .instrument(info_span!("gather results", job.id = claim.id.as_str()))
                    .await
            }
            (_, None) => {
                self.expand(claim).instrument(info_span!("list inputs", job.id = claim.id.as_str())).await
            }
        };
        match result {
            Err(Halt::Service(Trouble::Fatal(why))) => self.fail(claim, why).await,
            other => other,
        }
    }

    /// Lists the inputs page by page. A page stands in the ledger, then a message about each of its items is sent, then the
    /// cursor moves: whoever comes after a crash repeats a page and loses none.
    async fn expand(&self, claim: &JobClaim) -> Result<(), Halt> {
        let mut cursor = claim.record.cursor.clone();
        let mut position = claim.record.next_position;
        loop {
            if self.stop.is_draining() {
                return Err(Halt::Stopped);
            }
            let page = self.ask_service(|| self.service.expand(&claim.record, cursor.as_deref())).await?;
            fenced(self.ask_ledger(|| self.ledger.add_items(claim, &page.items, position, now())).await?)?;
            self.observer.step(Step::PageListed, Some(&claim.id), None);
            self.send_items(claim, &page.items).await?;
            self.observer.step(Step::PageSent, Some(&claim.id), None);
            position += page.items.len() as i64;
            let lease = self.settings.lease;
            match page.next {
                Some(next) => {
                    fenced(
                        self.ask_ledger(|| self.ledger.advance(claim, &next, position, now(), lease)).await?,
                    )?;
                    cursor = Some(next);
                }
                None if position == 0 => return Err(Halt::Service(Trouble::Fatal(no_inputs(claim)))),
                None => {
                    fenced(self.ask_ledger(|| self.ledger.expanded(claim, now())).await?)?;
                    self.observer.step(Step::Expanded, Some(&claim.id), None);
                    return Ok(());
                }
            }
        }
    }

    async fn send_items(&self, claim: &JobClaim, items: &[NewItem]) -> Result<(), QueueError> {
        let sending: Vec<_> = items.iter().map(|item| self.send_item(claim, item)).collect();
        stream::iter(sending).buffer_unordered(SENDING).try_collect().await
    }

    async fn send_item(&self, claim: &JobClaim, item: &NewItem) -> Result<(), QueueError> {
        let (lane, message) = self.item_message(&claim.id, &item.id, &item.message, &claim.record.trace);
        self.send(lane, &message).await
    }

    /// Gathers the results of a job whose items have all ended. Results stand, then the ledger says so and has the news, then
    /// they are sent.
    async fn finalize(&self, claim: &JobClaim) -> Result<(), Halt> {
        if claim.record.failure.as_ref().is_some_and(|why| EarlyEnd::of(&why.code).is_some()) {
            while self
                .ask_ledger(|| self.ledger.cancel_open(claim, now(), CANCELLED_AT_ONCE))
                .await?
                .ok_or(Halt::FencedOff)?
                > 0
            {}
        }
        let Some(record) = self.ask_ledger(|| self.ledger.finalize(claim, now())).await? else {
            self.let_go(claim, None).await;
            return Ok(());
        };
        let counts = self.ask_ledger(|| self.ledger.counts(&claim.id)).await?;
        let end = end_of(&record, &counts);
        self.end(claim, EndedJob { record, end, counts }).await
    }

    /// A job that cannot be done at all: its open items fail with it, and what there is is gathered.
    async fn fail(&self, claim: &JobClaim, why: Failure) -> Result<(), Halt> {
        fenced(self.ask_ledger(|| self.ledger.doom(claim, &why, now())).await?)?;
        self.finalize(claim).await
    }

    /// A job that has ended is asked for again, by one who wants to be told.
    async fn tell_again(&self, record: JobRecord, delivery: Delivery) {
        let counts = match self.ask_ledger(|| self.ledger.counts(&record.id)).await {
            Ok(counts) => counts,
            Err(error) => return self.put_back(delivery, self.settings.backoff.most, error).await,
        };
        let id = record.id.clone();
        let mut event = self.service.ended(&EndedJob { end: end_of(&record, &counts), record, counts });
        event.message.reply_to.clone_from(&delivery.message.reply_to);
        event.message.correlation_id.clone_from(&delivery.message.correlation_id);
        match self.ask_ledger(|| self.ledger.enter_news(&id, &event, now())).await {
            Ok(()) => self.acknowledge(delivery, Some(&id), None).await,
            Err(error) => return self.put_back(delivery, self.settings.backoff.most, error).await,
        }
        self.relay().await;
    }

    async fn end(&self, claim: &JobClaim, ended: EndedJob) -> Result<(), Halt> {
        self.ask_service(|| self.service.finalize(&ended)).await?;
        self.observer.step(Step::ResultsGathered, Some(&claim.id), None);
        let news = self.service.ended(&ended);
        fenced(self.ask_ledger(|| self.ledger.finish(claim, &ended.end, &news, now())).await?)?;
        self.observer.step(Step::Finished(ended.end.state()), Some(&claim.id), None);
        Ok(())
    }
}

/// How a job ends whose items have ended so.
fn end_of(record: &JobRecord, counts: &Counts) -> JobEnd {
    match (&record.failure, counts.succeeded, counts.failed) {
        (Some(why), ..) => EarlyEnd::of(&why.code).map_or_else(|| JobEnd::Failed(why.clone()), JobEnd::Early),
        (None, _, 0) => JobEnd::Succeeded,
        (None, 0, _) => JobEnd::Failed(Failure::new("all_items_failed", "every item has failed")),
        (None, ..) => JobEnd::PartiallySucceeded,
    }
}

fn no_inputs(claim: &JobClaim) -> Failure {
    let text = format!("{}: no input was found: nothing is there, or nothing matches", claim.id);
    Failure::new("no_inputs", text)
}

fn fenced(held: bool) -> Result<(), Halt> {
    if held { Ok(()) } else { Err(Halt::FencedOff) }
}
