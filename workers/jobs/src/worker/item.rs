//! Item handling, from the message to its acknowledgement.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use super::{Outcome, RunContext, Service, Step, Worker, WorkerFault, record_ids};
use crate::Failure;
use crate::ledger::{ClaimOutcome, ItemClaim, LedgerError, RetryCost};
use crate::queue::Delivery;
use crate::state::ItemEnd;
use crate::time::{later, now};
use crate::trace;

/// Change of a claimed item that the worker records in the ledger.
enum Entry {
    End(ItemEnd),
    Retry { after: Duration, reason: Failure, cost: RetryCost },
    Release,
}

impl<S: Service> Worker<S> {
    pub(super) async fn item(&self, delivery: Delivery) -> Result<(), WorkerFault> {
        let (job, item) = match self.service.parse_item(&delivery.message) {
            Ok(names) => names,
            Err(refusal) => {
                self.refuse(delivery, refusal).await;
                return Ok(());
            }
        };
        record_ids(&job, Some(&item));
        let claimed = self
            .call_ledger(|| {
                self.ledger.claim_item(&job, &item, &self.settings.name, now(), self.settings.lease)
            })
            .await;
        match claimed {
            Ok(ClaimOutcome::Claimed(claim)) => self.claimed(claim, delivery).await,
            // Its end was recorded, but the message was not acknowledged or the job not finalized.
            Ok(ClaimOutcome::Finished { reason, .. }) => {
                match reason {
                    // The worker that recorded it may have crashed before it sent the dead letter.
                    Some(reason) if delivery.redeliveries > 0 => self.dead_letter(delivery, &reason).await,
                    _ => self.acknowledge(delivery, Some(&job), Some(&item)).await,
                }
                self.on_item_finished(&job).await;
                Ok(())
            }
            // If the holder crashes, the sweep sends another message after the lease.
            Ok(ClaimOutcome::Leased { .. }) => {
                self.acknowledge(delivery, Some(&job), Some(&item)).await;
                Ok(())
            }
            // Workers' clocks differ a little, and this may be the only message about it.
            Ok(ClaimOutcome::NotDue { due }) => {
                let wait = u64::try_from(due.saturating_sub(now())).unwrap_or(0);
                self.requeue(delivery, Duration::from_millis(wait), "the item is not due yet").await;
                Ok(())
            }
            Ok(ClaimOutcome::NotFound) => {
                let reason =
                    Failure::new("unknown_item", format!("{job}/{item}: no such item in the ledger"));
                self.dead_letter(delivery, &reason).await;
                self.observer.step(Step::Refused(&reason), Some(&job), Some(&item));
                Ok(())
            }
            Err(error) => {
                self.requeue(delivery, self.settings.backoff.max, error).await;
                Ok(())
            }
        }
    }

    async fn claimed(&self, claim: ItemClaim, delivery: Delivery) -> Result<(), WorkerFault> {
        Span::current().record("item.attempt", claim.attempt);
        self.observer.step(Step::Claimed, Some(&claim.job), Some(&claim.item));
        let lost = CancellationToken::new();
        let context = RunContext::new(self.stop.abort_token());
        let (entry, fault) = tokio::select! {
            entry = self.entry(&claim, &context, &lost) => entry,
            never = self.renew_lease(&lost, || self.heartbeat(&claim, &context)) => match never {},
        };
        match self.call_ledger(|| self.record(&claim, &entry)).await {
            Ok(true) => self.settle(&claim, entry, delivery).await,
            Ok(false) => {
                trace::mark_failed("stale_claim");
                self.observer.step(Step::StaleClaim, Some(&claim.job), Some(&claim.item));
                self.acknowledge(delivery, Some(&claim.job), Some(&claim.item)).await;
            }
            Err(error) => {
                self.observer.step(Step::Unsettled, Some(&claim.job), Some(&claim.item));
                self.requeue(delivery, self.settings.backoff.max, error).await;
            }
        }
        fault.map_or(Ok(()), Err)
    }

    async fn heartbeat(&self, claim: &ItemClaim, context: &RunContext) -> Result<bool, LedgerError> {
        let progress = context.progress();
        self.ledger.renew_item_lease(claim, progress.as_deref(), now(), self.settings.lease).await
    }

    /// Runs the item and writes its report, unless an earlier attempt has written it.
    async fn entry(
        &self,
        claim: &ItemClaim,
        context: &RunContext,
        lost: &CancellationToken,
    ) -> (Entry, Option<WorkerFault>) {
        // Before the first attempt there is no report.
        if claim.attempt > 1 {
            match self.call_service(|| self.service.find_report(claim)).await {
                Ok(Some(end)) => {
                    self.observer.step(Step::ReportFound, Some(&claim.job), Some(&claim.item));
                    return (Entry::End(end), None);
                }
                Ok(None) => {}
                Err(trouble) => return (self.retry_free(trouble.failure().clone()), None),
            }
        }
        if claim.worker_losses > self.settings.max_worker_losses.into() {
            let text = format!(
                "{}/{}: {} workers were lost while they ran it",
                claim.job, claim.item, claim.worker_losses
            );
            return (self.write(claim, Err(&Failure::new("workers_lost", text))).await, None);
        }
        let allowed = u64::from(self.settings.max_attempts);
        match self.run_until_deadline(claim, context, lost).await {
            Outcome::Done(report) => (self.write(claim, Ok(&report)).await, None),
            Outcome::Reject(reason) => (self.write(claim, Err(&reason)).await, None),
            Outcome::Retry { reason, .. } if claim.attempts() >= allowed => {
                (self.write(claim, Err(&reason)).await, None)
            }
            Outcome::Retry { after, reason } => (self.retry_counted(claim, after, reason), None),
            Outcome::Later(reason) => (self.retry_free(reason), None),
            // An item that breaks one worker after the other is itself the cause, and must not break them all.
            Outcome::WorkerFault(reason) if claim.worker_losses >= self.settings.max_worker_losses.into() => {
                (self.write(claim, Err(&reason)).await, Some(WorkerFault(reason)))
            }
            Outcome::WorkerFault(reason) => {
                let after = self.settings.backoff.delay(1);
                (
                    Entry::Retry { after, reason: reason.clone(), cost: RetryCost::WorkerLoss },
                    Some(WorkerFault(reason)),
                )
            }
            Outcome::Cancelled => (Entry::Release, None),
        }
    }

    async fn run_until_deadline(
        &self,
        claim: &ItemClaim,
        context: &RunContext,
        lost: &CancellationToken,
    ) -> Outcome<S::Report> {
        let stop = &context.stop;
        let run = self.service.run(claim, context);
        let deadline = self.settings.deadline;
        tokio::select! {
            outcome = run => outcome,
            () = lost.cancelled() => {
                stop.cancel();
                Outcome::Cancelled
            }
            // A thread of the service may take some time to see the cancellation.
            () = self.stop.aborted() => Outcome::Cancelled,
            () = tokio::time::sleep(deadline) => {
                stop.cancel();
                Outcome::Reject(Failure::new("item_deadline", format!(
                    "{}/{}: not done within the {} s that one run may take", claim.job, claim.item, deadline.as_secs()
                )))
            }
        }
    }

    async fn write(&self, claim: &ItemClaim, result: Result<&S::Report, &Failure>) -> Entry {
        let writing = async {
            let written = self.call_service(|| self.service.write(claim, result)).await;
            written.inspect_err(|trouble| trace::mark_failed(&trouble.failure().code))
        };
        match writing.instrument(info_span!("write report")).await {
            Ok(end) => {
                self.observer.step(Step::ReportWritten, Some(&claim.job), Some(&claim.item));
                Entry::End(end)
            }
            // An item without a report has not ended, whatever has failed.
            Err(trouble) => self.retry_free(trouble.failure().clone()),
        }
    }

    /// Retries later at no cost: an unavailable store or a full worker says nothing about the item.
    fn retry_free(&self, reason: Failure) -> Entry {
        Entry::Retry { after: self.settings.backoff.max, reason, cost: RetryCost::Free }
    }

    fn retry_counted(&self, claim: &ItemClaim, after: Option<Duration>, reason: Failure) -> Entry {
        let failures = u32::try_from(claim.attempts()).unwrap_or(u32::MAX);
        let after = after.unwrap_or_else(|| self.settings.backoff.delay(failures));
        Entry::Retry { after, reason, cost: RetryCost::Attempt }
    }

    /// Records the change in the ledger; returns whether the claim was still valid.
    async fn record(&self, claim: &ItemClaim, entry: &Entry) -> Result<bool, LedgerError> {
        match entry {
            Entry::End(end) => self.ledger.end_item(claim, end, now()).await,
            Entry::Retry { after, reason, cost } => {
                let due = later(now(), *after);
                self.ledger.retry_item(claim, due, reason, *cost).await
            }
            Entry::Release => self.ledger.release_item(claim, now()).await,
        }
    }

    /// Settles the message after the ledger has recorded the change.
    async fn settle(&self, claim: &ItemClaim, entry: Entry, delivery: Delivery) {
        let (job, item) = (&claim.job, &claim.item);
        match entry {
            Entry::End(end) => {
                self.observer.step(Step::Ended(&end), Some(job), Some(item));
                match &end {
                    ItemEnd::Succeeded => self.acknowledge(delivery, Some(job), Some(item)).await,
                    ItemEnd::Failed(reason) => self.dead_letter(delivery, reason).await,
                }
                self.on_item_finished(job).await;
            }
            Entry::Retry { after, reason, .. } => {
                trace::mark_failed(&reason.code);
                self.observer.step(Step::Retried(&reason), Some(job), Some(item));
                if let Err(error) = delivery.retry_after(after).await {
                    tracing::warn!(%job, %item, %error, "the message is requeued unacknowledged");
                }
            }
            Entry::Release => {
                trace::mark_failed("released");
                self.observer.step(Step::Released, Some(job), Some(item));
                delivery.requeue().await;
            }
        }
    }
}
