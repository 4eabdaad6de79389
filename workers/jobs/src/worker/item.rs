//! Item handling, from the message to its acknowledgement.

use std::time::Duration;

use tracing::Span;

use super::{Claimed, RunContext, Service, Step, Worker, WorkerFault, record_ids};
use crate::ledger::{ClaimOutcome, ItemClaim, LedgerError};
use crate::message::parse_item_message;
use crate::queue::{Address, Delivery, Sent};
use crate::state::ItemEnd;
use crate::time::{Millis, later};
use crate::{Disposition, Failure, ItemId, JobId, RetryCost, Stopped, trace};

impl<S: Service> Worker<S> {
    pub(super) async fn item(&self, delivery: Delivery) -> Result<(), WorkerFault> {
        let parsed = parse_item_message(&delivery.message, S::ITEM_SCHEMA, S::PREVIOUS_ITEM_SCHEMA);
        let (job, item) = match parsed {
            Ok(ids) => ids,
            Err(stopped) => {
                self.refuse(delivery, stopped).await;
                return Ok(());
            }
        };
        record_ids(&job, Some(&item));
        let Self { settings, ledger, .. } = self;
        let (name, route) = (&settings.name, settings.route.as_ref());
        let claim = |now| ledger.claim_item(&job, &item, name, route, now, settings.lease);
        match self.call_ledger(claim).await {
            Ok(ClaimOutcome::Claimed(claim)) => return self.claimed(claim, delivery).await,
            Ok(outcome) => self.unclaimed(&job, &item, outcome, delivery).await,
            Err(error) => self.requeue(delivery, settings.backoff_most, error).await,
        }
        Ok(())
    }

    /// Settles the message of an item that this worker has not claimed.
    async fn unclaimed(&self, job: &JobId, item: &ItemId, outcome: ClaimOutcome, delivery: Delivery) {
        match outcome {
            ClaimOutcome::Claimed(_) => {}
            // Its end was recorded, but the message was not acknowledged or the job not finalized.
            ClaimOutcome::Finished { reason } => {
                match reason {
                    // The worker that recorded it may have crashed before it sent the dead letter.
                    Some(reason) if delivery.redeliveries > 0 => self.dead_letter(delivery, &reason).await,
                    _ => self.acknowledge(delivery, Some(job), Some(item)).await,
                }
                self.on_item_finished(job).await;
            }
            // If the holder crashes, the sweep sends another message after the lease.
            ClaimOutcome::Leased => self.acknowledge(delivery, Some(job), Some(item)).await,
            // A retry tier of the queue may end early, and this may be the only message about it.
            ClaimOutcome::NotDue { wait } => self.requeue(delivery, wait, "the item is not due yet").await,
            ClaimOutcome::OtherRoute(queue) => self.forward(job, item, &queue, delivery).await,
            ClaimOutcome::NotFound => {
                let reason =
                    Failure::new("unknown_item", format!("{job}/{item}: no such item in the ledger"));
                self.dead_letter(delivery, &reason).await;
                self.observer.step(Step::Refused(&reason), Some(job), Some(item));
            }
        }
    }

    /// Sends a message that came to a queue of another route, from a build without routes, to its own queue.
    async fn forward(&self, job: &JobId, item: &ItemId, queue: &Address, delivery: Delivery) {
        let sent = match self.send(queue, &delivery.message).await {
            Ok(sent) => sent,
            Err(error) => return self.requeue(delivery, self.settings.backoff_most, error).await,
        };
        if sent == Sent::NoQueue {
            self.mark_unannounced(job, &[item]).await;
        }
        self.acknowledge(delivery, Some(job), Some(item)).await;
    }

    /// Records items whose messages were not sent. Without the record, the sweep finds them later.
    pub(super) async fn mark_unannounced(&self, job: &JobId, items: &[&ItemId]) {
        if let Err(error) = self.call_ledger(|_| self.ledger.mark_unannounced(job, items)).await {
            tracing::warn!(%error, %job, "cannot record items without a queue");
        }
    }

    async fn claimed(&self, claim: ItemClaim, delivery: Delivery) -> Result<(), WorkerFault> {
        Span::current().record("item.attempt", claim.attempt);
        self.observer.step(Step::Claimed, Some(&claim.job), Some(&claim.item));
        let (result, fault) = match self.service.parse_item(&claim) {
            Ok(item) => {
                let claimed = Claimed { claim: claim.clone(), item };
                let context = RunContext::new(self.stop.abort_token());
                self.run_claimed(&claimed, &context).await
            }
            Err(stopped) => (Err(stopped), None),
        };
        let after = result.as_ref().err().map_or(Duration::ZERO, |stopped| self.delay(&claim, stopped));
        match self.call_ledger(|now| self.record(&claim, &result, after, now)).await {
            Ok(true) => self.settle(&claim, result, after, delivery).await,
            Ok(false) => {
                trace::mark_failed("stale_claim");
                self.observer.step(Step::StaleClaim, Some(&claim.job), Some(&claim.item));
                self.acknowledge(delivery, Some(&claim.job), Some(&claim.item)).await;
            }
            Err(error) => {
                self.observer.step(Step::Unsettled, Some(&claim.job), Some(&claim.item));
                self.requeue(delivery, self.settings.backoff_most, error).await;
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Returns the delay of a retry: attempts back off; a full worker or an unavailable store needs the maximum.
    fn delay(&self, claim: &ItemClaim, stopped: &Stopped) -> Duration {
        let backoff = self.settings.backoff();
        match stopped.disposition {
            Disposition::Retry(RetryCost::Attempt) => {
                backoff.delay(u32::try_from(claim.attempts()).unwrap_or(u32::MAX))
            }
            Disposition::Retry(RetryCost::Free) => backoff.max,
            Disposition::Retry(RetryCost::WorkerLoss) | Disposition::WorkerFault => backoff.delay(1),
            Disposition::Fail | Disposition::Cancelled => Duration::ZERO,
        }
    }

    /// Records the result in the ledger; returns whether the claim was still valid.
    async fn record(
        &self,
        claim: &ItemClaim,
        result: &Result<ItemEnd, Stopped>,
        after: Duration,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        match result {
            Ok(end) => self.ledger.end_item(claim, end, now).await,
            Err(stopped) => self.ledger.stop_item(claim, stopped, later(now, after), now).await,
        }
    }

    /// Settles the message after the ledger has recorded the result.
    async fn settle(
        &self,
        claim: &ItemClaim,
        result: Result<ItemEnd, Stopped>,
        after: Duration,
        delivery: Delivery,
    ) {
        let (job, item) = (&claim.job, &claim.item);
        let stopped = match result {
            Ok(ItemEnd::Succeeded) => {
                self.observer.step(Step::Ended(&ItemEnd::Succeeded), Some(job), Some(item));
                self.acknowledge(delivery, Some(job), Some(item)).await;
                return self.on_item_finished(job).await;
            }
            Ok(ItemEnd::Failed(failure)) => Stopped::fail(failure),
            Err(stopped) => stopped,
        };
        match stopped.disposition {
            Disposition::Fail => {
                let end = ItemEnd::Failed(stopped.failure.clone());
                self.observer.step(Step::Ended(&end), Some(job), Some(item));
            }
            Disposition::Retry(_) | Disposition::WorkerFault => {
                self.observer.step(Step::Retried(&stopped.failure), Some(job), Some(item));
            }
            Disposition::Cancelled => self.observer.step(Step::Released, Some(job), Some(item)),
        }
        self.settle_stopped(delivery, &stopped, after).await;
        if stopped.disposition == Disposition::Fail {
            self.on_item_finished(job).await;
        }
    }
}
