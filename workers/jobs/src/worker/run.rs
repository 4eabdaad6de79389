//! One run of a claimed item, up to its report in the store.

use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::{Claimed, RunContext, Service, Step, Worker, WorkerFault};
use crate::ledger::LedgerError;
use crate::state::ItemEnd;
use crate::time::Millis;
use crate::{Disposition, Failure, RetryCost, Stopped, trace};

impl<S: Service> Worker<S> {
    /// Runs the item under heartbeats. Returns its end, and the fault of this worker if it is broken.
    pub(super) async fn run_claimed(
        &self,
        claimed: &Claimed<S::Item>,
        context: &RunContext,
    ) -> (Result<ItemEnd, Stopped>, Option<WorkerFault>) {
        let lost = CancellationToken::new();
        tokio::select! {
            result = self.run_and_write(claimed, context, &lost) => result,
            never = self.renew_lease(&lost, |now| self.heartbeat(claimed, context, now)) => match never {},
        }
    }

    async fn heartbeat(
        &self,
        claimed: &Claimed<S::Item>,
        context: &RunContext,
        now: Millis,
    ) -> Result<bool, LedgerError> {
        let progress = context.progress();
        let lease = self.settings.lease;
        self.ledger.renew_item_lease(&claimed.claim, progress.as_deref(), now, lease).await
    }

    /// Runs the item and writes its report, unless an earlier attempt has written it.
    async fn run_and_write(
        &self,
        claimed: &Claimed<S::Item>,
        context: &RunContext,
        lost: &CancellationToken,
    ) -> (Result<ItemEnd, Stopped>, Option<WorkerFault>) {
        let claim = &claimed.claim;
        // Before the first attempt there is no report.
        if claim.attempt > 1 {
            match self.call_service(|| self.service.find_report(claimed)).await {
                Ok(Some(end)) => {
                    self.observer.step(Step::ReportFound, Some(&claim.job), Some(&claim.item));
                    return (Ok(end), None);
                }
                Ok(None) => {}
                Err(stopped) => return (Err(without_report(stopped)), None),
            }
        }
        let max_losses = i64::from(self.settings.losses);
        if claim.worker_losses > max_losses {
            let (job, item, losses) = (&claim.job, &claim.item, claim.worker_losses);
            let text = format!("{job}/{item}: {losses} workers were lost while they ran it");
            return (self.write(claimed, Err(&Failure::new("workers_lost", text))).await, None);
        }
        let stopped = match self.run_until_deadline(claimed, context, lost).await {
            Ok(report) => {
                self.observer.report(&report);
                return (self.write(claimed, Ok(&report)).await, None);
            }
            Err(stopped) => stopped,
        };
        let fails = match stopped.disposition {
            Disposition::Fail => true,
            Disposition::Retry(RetryCost::Attempt) => claim.attempts() >= u64::from(self.settings.attempts),
            // An item that breaks one worker after the other is itself the cause, and must not break them all.
            Disposition::Retry(RetryCost::WorkerLoss) | Disposition::WorkerFault => {
                claim.worker_losses >= max_losses
            }
            Disposition::Retry(RetryCost::Free) | Disposition::Cancelled => false,
        };
        let fault =
            (stopped.disposition == Disposition::WorkerFault).then(|| WorkerFault(stopped.failure.clone()));
        let result = if fails { self.write(claimed, Err(&stopped.failure)).await } else { Err(stopped) };
        (result, fault)
    }

    async fn run_until_deadline(
        &self,
        claimed: &Claimed<S::Item>,
        context: &RunContext,
        lost: &CancellationToken,
    ) -> Result<S::Report, Stopped> {
        let run = self.service.run(claimed, context);
        let deadline = self.settings.item_deadline;
        let cancelled =
            |code: &str, text: &str| Err(Stopped::new(Disposition::Cancelled, Failure::new(code, text)));
        tokio::select! {
            result = run => result,
            () = lost.cancelled() => {
                context.stop.cancel();
                cancelled("stale_claim", "another worker has claimed the item, or its job was ended")
            }
            // A thread of the service may take some time to see the cancellation.
            () = self.stop.aborted() => cancelled("released", "this worker is stopping"),
            () = tokio::time::sleep(deadline) => {
                context.stop.cancel();
                let (job, item, limit) = (&claimed.claim.job, &claimed.claim.item, deadline.as_secs());
                let text = format!("{job}/{item}: not done within the {limit} s that one run may take");
                Err(Stopped::fail(Failure::new("item_deadline", text)))
            }
        }
    }

    async fn write(
        &self,
        claimed: &Claimed<S::Item>,
        result: Result<&S::Report, &Failure>,
    ) -> Result<ItemEnd, Stopped> {
        let writing = async {
            let written = self.call_service(|| self.service.write(claimed, result)).await;
            written.inspect_err(|stopped| trace::mark_failed(&stopped.failure.code))
        };
        let end = writing.instrument(info_span!("write report")).await.map_err(without_report)?;
        let claim = &claimed.claim;
        self.observer.step(Step::ReportWritten, Some(&claim.job), Some(&claim.item));
        Ok(end)
    }
}

/// Stops an item whose report cannot be read or written. Without a report it has not ended, whatever has failed, unless no
/// retry helps.
fn without_report(stopped: Stopped) -> Stopped {
    match stopped.disposition {
        Disposition::Fail | Disposition::Cancelled => stopped,
        Disposition::Retry(_) | Disposition::WorkerFault => Stopped::retry_free(stopped.failure),
    }
}
