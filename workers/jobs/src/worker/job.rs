//! A job, from its message to its end.

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{EndedJob, Refusal, Service, Step, Trouble, Worker};
use crate::job::{Failure, JobId, JobState, NewItem, now};
use crate::ledger::{Accepted, JobClaim, LedgerError};
use crate::queue::{Delivery, Lane, Message, QueueError};

/// Messages about items that are on their way to the queue at once.
const SENDING: usize = 64;

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

impl<S: Service> Worker<S> {
    pub(super) async fn job(&self, delivery: Delivery) {
        let new = match self.service.job(&delivery.message) {
            Ok(new) => new,
            Err(refusal) => return self.refuse(delivery, refusal).await,
        };
        let record = match self.ledger(async |ledger| ledger.accept(&new, now()).await).await {
            Ok(Accepted::New(record) | Accepted::Same(record)) => record,
            Ok(Accepted::Conflict { existing }) => {
                let why = Failure::new(
                    "idempotency_conflict",
                    format!("{}: job {existing} has this id or key and asks for something else", new.id),
                );
                return self.refuse(delivery, Refusal::Hopeless(why)).await;
            }
            Err(error) => return self.put_back(delivery, error).await,
        };
        self.observer.step(Step::Accepted, Some(&record.id), None);
        match self.attend(&record.id).await {
            Ok(()) => self.acknowledge(delivery, Some(&record.id), None).await,
            Err(Halt::Stopped) => {
                delivery.release().await;
            }
            Err(halt) => self.put_back(delivery, halt).await,
        }
    }

    /// Does what is next for a job after one of its items has ended. What fails is tried again by the sweep.
    pub(super) async fn look_after(&self, job: &JobId) {
        match self.ledger(async |ledger| ledger.any_open(job).await).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return tracing::warn!(%job, %error, "left for the sweep"),
        }
        if let Err(halt) = self.attend(job).await {
            tracing::warn!(%job, %halt, "left for the sweep");
        }
    }

    /// Does what is next for a job, if anything is and nobody else is at it.
    async fn attend(&self, job: &JobId) -> Result<(), Halt> {
        let claim = self.ledger(async |ledger| {
            ledger.claim_job(job, &self.settings.name, now(), self.settings.lease).await
        });
        let Some(claim) = claim.await? else { return Ok(()) };
        let lost = CancellationToken::new();
        let result = tokio::select! {
            result = self.advance(&claim) => result,
            () = lost.cancelled() => Err(Halt::FencedOff),
            never = self.hold_job(&claim, &lost) => match never {},
        };
        let result = match result {
            Err(Halt::Service(Trouble::Fatal(why))) => self.fail(&claim, why).await,
            other => other,
        };
        if result.is_err() {
            let due = now() + self.settings.backoff.most.as_millis() as i64;
            // Without it the lease ends by itself.
            let _ = self.ledger.release_job(&claim, due, now()).await;
        }
        result
    }

    async fn hold_job(&self, claim: &JobClaim, lost: &CancellationToken) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(self.settings.heartbeat).await;
            match self.ledger.extend_job(claim, now(), self.settings.lease).await {
                Ok(true) => {}
                Ok(false) => lost.cancel(),
                Err(error) => tracing::warn!(%error, job = %claim.id, "no heartbeat"),
            }
        }
    }

    async fn advance(&self, claim: &JobClaim) -> Result<(), Halt> {
        if claim.record.total.is_none() {
            self.expand(claim).await?;
        }
        self.finalize(claim).await
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
            let page = self.service(async |s| s.expand(&claim.record, cursor.as_deref()).await).await?;
            fenced(self.ledger(async |l| l.add_items(claim, &page.items, position, now()).await).await?)?;
            self.observer.step(Step::PageListed, Some(&claim.id), None);
            self.send_items(claim, &page.items).await?;
            self.observer.step(Step::PageSent, Some(&claim.id), None);
            position += page.items.len() as i64;
            let lease = self.settings.lease;
            match page.next {
                Some(next) => {
                    fenced(
                        self.ledger(async |l| l.advance(claim, &next, position, now(), lease).await).await?,
                    )?;
                    cursor = Some(next);
                }
                None => {
                    fenced(self.ledger(async |l| l.expanded(claim, position, now()).await).await?)?;
                    self.observer.step(Step::Expanded, Some(&claim.id), None);
                    return Ok(());
                }
            }
        }
    }

    async fn send_items(&self, claim: &JobClaim, items: &[NewItem]) -> Result<(), QueueError> {
        let sending = stream::iter(items.iter().map(|item| self.send_item(claim, item)));
        sending.buffer_unordered(SENDING).try_collect().await
    }

    async fn send_item(&self, claim: &JobClaim, item: &NewItem) -> Result<(), QueueError> {
        self.send(Lane::Items, &self.item_message(&claim.id, &item.id, &item.message)).await
    }

    /// Gathers the results of a job whose items have all ended. Results stand, then the news is sent, then the ledger says so.
    async fn finalize(&self, claim: &JobClaim) -> Result<(), Halt> {
        let Some(record) = self.ledger(async |ledger| ledger.finalize(claim, now()).await).await? else {
            fenced(self.ledger(async |ledger| ledger.release_job(claim, 0, now()).await).await?)?;
            return Ok(());
        };
        let counts = self.ledger(async |ledger| ledger.counts(&claim.id).await).await?;
        let state = match (counts.succeeded, counts.failed) {
            (_, 0) => JobState::Succeeded,
            (0, _) => JobState::Failed,
            _ => JobState::PartiallySucceeded,
        };
        self.end(claim, EndedJob { record, state, counts, failure: None }).await
    }

    /// A job that cannot be done at all ends with what it has.
    async fn fail(&self, claim: &JobClaim, why: Failure) -> Result<(), Halt> {
        let record = claim.record.clone();
        let counts = self.ledger(async |ledger| ledger.abandon_items(claim, &why, now()).await).await?;
        self.end(claim, EndedJob { record, state: JobState::Failed, counts, failure: Some(why) }).await
    }

    async fn end(&self, claim: &JobClaim, ended: EndedJob) -> Result<(), Halt> {
        self.service(async |service| service.finalize(&ended).await).await?;
        self.observer.step(Step::ResultsGathered, Some(&claim.id), None);
        self.announce(&self.service.ended(&ended)).await?;
        self.observer.step(Step::Announced, Some(&claim.id), None);
        let (state, failure) = (ended.state, ended.failure.as_ref());
        fenced(self.ledger(async |ledger| ledger.finish(claim, state, failure, now()).await).await?)?;
        self.observer.step(Step::Finished(state), Some(&claim.id), None);
        Ok(())
    }
}

fn fenced(held: bool) -> Result<(), Halt> {
    if held { Ok(()) } else { Err(Halt::FencedOff) }
}
