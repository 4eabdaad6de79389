//! An item, from its message to the acknowledgement.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use super::{Outcome, Running, Service, Step, Unfit, Worker, about};
use crate::job::{Failure, ItemEnd, later, now};
use crate::ledger::{ClaimedItem, ItemClaim, LedgerError, Toll};
use crate::queue::Delivery;
use crate::trace;

/// What is to be entered in the ledger about a claimed item.
enum Entry {
    End(ItemEnd),
    Retry { after: Duration, why: Failure, toll: Toll },
    GiveBack,
}

impl<S: Service> Worker<S> {
    pub(super) async fn item(&self, delivery: Delivery) -> Result<(), Unfit> {
        let (job, item) = match self.service.item(&delivery.message) {
            Ok(names) => names,
            Err(refusal) => {
                self.refuse(delivery, refusal).await;
                return Ok(());
            }
        };
        about(&job, Some(&item));
        let claimed = self
            .ask_ledger(|| {
                self.ledger.claim_item(&job, &item, &self.settings.name, now(), self.settings.lease)
            })
            .await;
        match claimed {
            Ok(ClaimedItem::Yes(claim)) => self.claimed(claim, delivery).await,
            // Its end was entered, but not acknowledged or not looked after.
            Ok(ClaimedItem::Ended { why, .. }) => {
                match why {
                    // Whoever entered it may have died before it became a dead letter.
                    Some(why) if delivery.redeliveries > 0 => self.bury(delivery, &why).await,
                    _ => self.acknowledge(delivery, Some(&job), Some(&item)).await,
                }
                self.look_after(&job).await;
                Ok(())
            }
            // Should its holder die, the sweep sends another message when the lease is over.
            Ok(ClaimedItem::Held { .. }) => {
                self.acknowledge(delivery, Some(&job), Some(&item)).await;
                Ok(())
            }
            // Perhaps only by another worker's clock: this may be the only message about it.
            Ok(ClaimedItem::Early { due }) => {
                let wait = u64::try_from(due.saturating_sub(now())).unwrap_or(0);
                self.put_back(delivery, Duration::from_millis(wait), "it is not due yet").await;
                Ok(())
            }
            Ok(ClaimedItem::Unknown) => {
                let why = Failure::new("unknown_item", format!("{job}/{item}: no such item in the ledger"));
                self.bury(delivery, &why).await;
                self.observer.step(Step::Refused(&why), Some(&job), Some(&item));
                Ok(())
            }
            Err(error) => {
                self.put_back(delivery, self.settings.backoff.most, error).await;
                Ok(())
            }
        }
    }

    async fn claimed(&self, claim: ItemClaim, delivery: Delivery) -> Result<(), Unfit> {
        Span::current().record("item.attempt", claim.attempt);
        self.observer.step(Step::Claimed, Some(&claim.job), Some(&claim.item));
        let lost = CancellationToken::new();
        let running = Running { stop: self.stop.abort.child_token(), ..Running::default() };
        let (entry, unfit) = tokio::select! {
            entry = self.entry(&claim, &running, &lost) => entry,
            never = self.hold(&lost, || self.heartbeat(&claim, &running)) => match never {},
        };
        let entered = self.ask_ledger(|| self.enter(&claim, &entry)).await;
        match entered {
            Ok(true) => self.settle(&claim, entry, delivery).await,
            Ok(false) => {
                trace::failed("fenced_off");
                self.observer.step(Step::FencedOff, Some(&claim.job), Some(&claim.item));
                self.acknowledge(delivery, Some(&claim.job), Some(&claim.item)).await;
            }
            Err(error) => {
                self.observer.step(Step::Unsettled, Some(&claim.job), Some(&claim.item));
                self.put_back(delivery, self.settings.backoff.most, error).await;
            }
        }
        unfit.map_or(Ok(()), Err)
    }

    async fn heartbeat(&self, claim: &ItemClaim, running: &Running) -> Result<bool, LedgerError> {
        let progress = running.progress();
        self.ledger.extend_item(claim, progress.as_deref(), now(), self.settings.lease).await
    }

    /// Does the item, unless that was done before, up to its report in the store.
    async fn entry(
        &self,
        claim: &ItemClaim,
        running: &Running,
        lost: &CancellationToken,
    ) -> (Entry, Option<Unfit>) {
        // A first attempt has nothing before it.
        if claim.attempt > 1 {
            match self.ask_service(|| self.service.written(claim)).await {
                Ok(Some(end)) => {
                    self.observer.step(Step::ReportFound, Some(&claim.job), Some(&claim.item));
                    return (Entry::End(end), None);
                }
                Ok(None) => {}
                Err(trouble) => return (self.wait(trouble.failure().clone()), None),
            }
        }
        if claim.lost > self.settings.losses.into() {
            let text = format!("{}/{}: {} workers were lost over it", claim.job, claim.item, claim.lost);
            return (self.write(claim, Err(&Failure::new("workers_lost", text))).await, None);
        }
        let allowed = u64::from(self.settings.attempts);
        match self.run_in_time(claim, running, lost).await {
            Outcome::Done(report) => (self.write(claim, Ok(&report)).await, None),
            Outcome::Reject(why) => (self.write(claim, Err(&why)).await, None),
            Outcome::Retry { why, .. } if claim.attempts() >= allowed => {
                (self.write(claim, Err(&why)).await, None)
            }
            Outcome::Retry { after, why } => (self.later(claim, after, why), None),
            Outcome::Later(why) => (self.wait(why), None),
            // A worker that is lost: what breaks one after the other is in the item, and must not break them all.
            Outcome::Unfit(why) if claim.lost >= self.settings.losses.into() => {
                (self.write(claim, Err(&why)).await, Some(Unfit(why)))
            }
            Outcome::Unfit(why) => {
                let after = self.settings.backoff.delay(1);
                (Entry::Retry { after, why: why.clone(), toll: Toll::Worker }, Some(Unfit(why)))
            }
            Outcome::Cancelled => (Entry::GiveBack, None),
        }
    }

    async fn run_in_time(
        &self,
        claim: &ItemClaim,
        running: &Running,
        lost: &CancellationToken,
    ) -> Outcome<S::Report> {
        let stop = &running.stop;
        let run = self.service.run(claim, running);
        let deadline = self.settings.deadline;
        tokio::select! {
            outcome = run => outcome,
            () = lost.cancelled() => {
                stop.cancel();
                Outcome::Cancelled
            }
            // What runs in a thread of its own may take its time to see it.
            () = self.stop.aborted() => Outcome::Cancelled,
            () = tokio::time::sleep(deadline) => {
                stop.cancel();
                Outcome::Reject(Failure::new("item_deadline", format!(
                    "{}/{}: not done within the {} s that an item may take", claim.job, claim.item, deadline.as_secs()
                )))
            }
        }
    }

    async fn write(&self, claim: &ItemClaim, result: Result<&S::Report, &Failure>) -> Entry {
        let writing = async {
            let written = self.ask_service(|| self.service.write(claim, result)).await;
            written.inspect_err(|trouble| trace::failed(&trouble.failure().code))
        };
        match writing.instrument(info_span!("write report")).await {
            Ok(end) => {
                self.observer.step(Step::ReportWritten, Some(&claim.job), Some(&claim.item));
                Entry::End(end)
            }
            // Without a report an item has not ended, whatever it was that failed.
            Err(trouble) => self.wait(trouble.failure().clone()),
        }
    }

    /// The store is away, or this worker has no room. That says nothing about the item, so it is no attempt of its own.
    fn wait(&self, why: Failure) -> Entry {
        Entry::Retry { after: self.settings.backoff.most, why, toll: Toll::Nothing }
    }

    fn later(&self, claim: &ItemClaim, after: Option<Duration>, why: Failure) -> Entry {
        let failures = u32::try_from(claim.attempts()).unwrap_or(u32::MAX);
        let after = after.unwrap_or_else(|| self.settings.backoff.delay(failures));
        Entry::Retry { after, why, toll: Toll::Attempt }
    }

    /// Whether the claim still held.
    async fn enter(&self, claim: &ItemClaim, entry: &Entry) -> Result<bool, LedgerError> {
        match entry {
            Entry::End(end) => self.ledger.end_item(claim, end, now()).await,
            Entry::Retry { after, why, toll } => {
                let due = later(now(), *after);
                self.ledger.retry_item(claim, due, why, *toll).await
            }
            Entry::GiveBack => self.ledger.give_back_item(claim, now()).await,
        }
    }

    /// The ledger knows; now the queue.
    async fn settle(&self, claim: &ItemClaim, entry: Entry, delivery: Delivery) {
        let (job, item) = (&claim.job, &claim.item);
        match entry {
            Entry::End(end) => {
                self.observer.step(Step::Ended(&end), Some(job), Some(item));
                match &end {
                    ItemEnd::Succeeded => self.acknowledge(delivery, Some(job), Some(item)).await,
                    ItemEnd::Failed(why) => self.bury(delivery, why).await,
                }
                self.look_after(job).await;
            }
            Entry::Retry { after, why, .. } => {
                trace::failed(&why.code);
                self.observer.step(Step::Retried(&why), Some(job), Some(item));
                if let Err(error) = delivery.back(after).await {
                    tracing::warn!(%job, %item, %error, "the message goes back unacknowledged");
                }
            }
            Entry::GiveBack => {
                trace::failed("given_back");
                self.observer.step(Step::GivenBack, Some(job), Some(item));
                delivery.release().await;
            }
        }
    }
}
