//! Job handling, from the message to the job's end.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::lease::released;
use super::{EndedJob, Service, Step, Worker, WorkerFault, record_ids};
use crate::job::{NewItem, NewJob};
use crate::ledger::{Accepted, JobClaim, JobRecord};
use crate::message::item_message;
use crate::queue::{Delivery, QueueError, Sent};
use crate::state::{Counts, EarlyEnd, JobEnd, JobState};
use crate::time::later;
use crate::trace;
use crate::{Disposition, Failure, ItemId, JobId, Stopped};

/// Maximum item messages that are sent concurrently.
const CONCURRENT_SENDS: usize = 64;

/// Maximum items that one statement cancels.
const CANCEL_BATCH: u32 = 2000;

impl<S: Service> Worker<S> {
    pub(super) async fn job(&self, delivery: Delivery) -> Result<(), WorkerFault> {
        match self.accept(delivery).await {
            Some((record, delivery)) => self.continue_job(record, delivery).await,
            None => Ok(()),
        }
    }

    /// Accepts the job of a message, or settles the message otherwise.
    async fn accept(&self, delivery: Delivery) -> Option<(JobRecord, Delivery)> {
        let new = match self.service.parse_job(&delivery.message) {
            Ok(new) => NewJob { trace: new.trace.or(&delivery.message.trace), ..new },
            Err(stopped) => {
                self.refuse(delivery, stopped).await;
                return None;
            }
        };
        let record = match self.call_ledger(|now| self.ledger.accept(&new, now)).await {
            Ok(Accepted::New(record) | Accepted::Same(record)) => record,
            Ok(Accepted::Conflict { existing }) => {
                let reason = new.conflict_with(&existing);
                self.refuse_conflicting(&existing, delivery, reason).await;
                return None;
            }
            Err(error) => {
                self.requeue(delivery, self.settings.backoff_most, error).await;
                return None;
            }
        };
        record_ids(&record.id, None);
        self.observer.step(Step::Accepted, Some(&record.id), None);
        Some((record, delivery))
    }

    async fn continue_job(&self, record: JobRecord, delivery: Delivery) -> Result<(), WorkerFault> {
        if record.state.is_end() && delivery.message.reply_to.is_some() {
            self.republish_end(record, delivery).await;
            return Ok(());
        }
        let Err(stopped) = self.next_step(&record).await else {
            self.acknowledge(delivery, Some(&record.id), None).await;
            return Ok(());
        };
        match stopped.disposition {
            Disposition::Cancelled => self.settle_stopped(delivery, &stopped, Duration::ZERO).await,
            // The job itself has failed in `run_phase` by now; what is left to do is retried.
            Disposition::Retry(_) | Disposition::Fail => {
                self.requeue(delivery, self.settings.backoff_most, &stopped).await;
            }
            Disposition::WorkerFault => {
                self.requeue(delivery, self.settings.backoff_most, &stopped).await;
                return Err(WorkerFault(stopped.failure));
            }
        }
        Ok(())
    }

    async fn next_step(&self, record: &JobRecord) -> Result<(), Stopped> {
        if record.state.is_end() {
            return Ok(());
        }
        if record.total.is_none() || record.state == JobState::Finalizing {
            self.drive_job(&record.id).await?;
        }
        self.finalize_if_all_ended(&record.id).await
    }

    /// Finalizes the job if its last item has ended. The sweep retries after an error.
    pub(super) async fn on_item_finished(&self, job: &JobId) {
        if let Err(stopped) = self.finalize_if_all_ended(job).await {
            tracing::warn!(%job, %stopped, "cannot finalize the job now; the sweep will retry");
        }
    }

    async fn finalize_if_all_ended(&self, job: &JobId) -> Result<(), Stopped> {
        if self.call_ledger(|_| self.ledger.has_open_items(job)).await? {
            return Ok(());
        }
        self.drive_job(job).await
    }

    /// Lists the inputs of a job or gathers its results, unless the job has ended or another worker holds it.
    async fn drive_job(&self, job: &JobId) -> Result<(), Stopped> {
        let Self { settings, .. } = self;
        let claim = |now| self.ledger.claim_job(job, &settings.name, now, settings.lease);
        let claim = self.call_ledger(claim).await?;
        let Some(claim) = claim else { return Ok(()) };
        let lost = CancellationToken::new();
        let renew = |now| self.ledger.renew_job_lease(&claim, now, settings.lease);
        let result = tokio::select! {
            result = self.run_phase(&claim) => result,
            () = lost.cancelled() => Err(Stopped::stale_claim()),
            never = self.renew_lease(&lost, renew) => match never {},
        };
        match &result {
            Ok(()) => self.relay().await,
            Err(stopped) => {
                trace::mark_failed(&stopped.failure.code);
                self.release_claim(&claim, Some(settings.backoff_most)).await;
            }
        }
        result
    }

    /// Releases a claim; a worker continues the job after `after`, or when its last item has ended.
    async fn release_claim(&self, claim: &JobClaim, after: Option<Duration>) {
        let release = async {
            let now = self.ledger.now().await?;
            self.ledger.release_job(claim, after.map(|after| later(now, after))).await
        };
        if let Err(error) = release.await {
            tracing::warn!(%error, job = %claim.id, "cannot release the claim; it ends with its lease");
        }
    }

    async fn run_phase(&self, claim: &JobClaim) -> Result<(), Stopped> {
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
            Err(Stopped { failure, disposition: Disposition::Fail }) => self.fail(claim, failure).await,
            other => other,
        }
    }

    /// Lists the inputs page by page: inserts a page into the ledger, sends a message about each of its items, then saves
    /// the cursor. After a crash the next worker repeats a page and loses none.
    async fn expand(&self, claim: &JobClaim) -> Result<(), Stopped> {
        let mut cursor = claim.record.cursor.clone();
        let mut position = claim.record.next_position;
        loop {
            if self.stop.is_draining() {
                return Err(released());
            }
            let page = self.call_service(|| self.service.expand(&claim.record, cursor.as_deref())).await?;
            still_held(
                self.call_ledger(|now| self.ledger.add_items(claim, &page.items, position, now)).await?,
            )?;
            self.observer.step(Step::PageListed, Some(&claim.id), None);
            self.send_items(claim, &page.items).await?;
            self.observer.step(Step::PageSent, Some(&claim.id), None);
            position += page.items.len() as i64;
            if !page.cursor.is_empty() {
                let lease = self.settings.lease;
                let save = |now| self.ledger.save_cursor(claim, &page.cursor, position, now, lease);
                still_held(self.call_ledger(save).await?)?;
            }
            if page.is_last {
                if position == 0 {
                    return Err(Stopped::fail(no_inputs(claim)));
                }
                still_held(self.call_ledger(|now| self.ledger.finish_listing(claim, now)).await?)?;
                self.observer.step(Step::Expanded, Some(&claim.id), None);
                return Ok(());
            }
            cursor = Some(page.cursor);
        }
    }

    /// Sends a message about each item. Items whose route has no queue stay queued, for a worker that has the route.
    async fn send_items(&self, claim: &JobClaim, items: &[NewItem]) -> Result<(), QueueError> {
        let sending: Vec<_> = items.iter().map(|item| self.send_item(claim, item)).collect();
        let unsent: Vec<_> =
            stream::iter(sending).buffer_unordered(CONCURRENT_SENDS).try_collect::<Vec<_>>().await?;
        let unsent: Vec<_> = unsent.into_iter().flatten().collect();
        if !unsent.is_empty() {
            tracing::info!(job = %claim.id, items = unsent.len(), "no worker has the route of these items yet");
            self.mark_unannounced(&claim.id, &unsent).await;
        }
        Ok(())
    }

    /// Sends the message about an item. Returns the item if its route has no queue.
    async fn send_item<'i>(
        &self,
        claim: &JobClaim,
        item: &'i NewItem,
    ) -> Result<Option<&'i ItemId>, QueueError> {
        let NewItem { id, queue, .. } = item;
        let message = item_message(S::ITEM_SCHEMA, &claim.id, id, queue.lane, &claim.record.trace);
        Ok((self.send(queue, &message).await? == Sent::NoQueue).then_some(id))
    }

    /// Gathers the results of a job whose items have all ended: writes them, then the completion marker, then records end and
    /// event in the ledger, then publishes the event.
    async fn finalize(&self, claim: &JobClaim) -> Result<(), Stopped> {
        if claim.record.failure.as_ref().is_some_and(|reason| EarlyEnd::of(&reason.code).is_some()) {
            while self
                .call_ledger(|now| self.ledger.cancel_open_items(claim, now, CANCEL_BATCH))
                .await?
                .ok_or_else(Stopped::stale_claim)?
                > 0
            {}
        }
        let Some(record) = self.call_ledger(|now| self.ledger.begin_finalizing(claim, now)).await? else {
            self.release_claim(claim, None).await;
            return Ok(());
        };
        let claim = &JobClaim { record, ..claim.clone() };
        let gathered = self.call_service(|| self.service.gather(claim)).await;
        // Afterwards: the gathering may have failed items.
        let counts = self.call_ledger(|_| self.ledger.counts(&claim.id)).await?;
        let record = claim.record.clone();
        let ended = EndedJob { end: end_of(&record, &counts), record, counts };
        let written = match gathered {
            Ok(summary) => self.call_service(|| self.service.complete(&ended, &summary)).await,
            Err(stopped) => Err(stopped),
        };
        match written {
            Ok(()) => self.observer.step(Step::ResultsGathered, Some(&claim.id), None),
            // The job has failed already, and no retry helps: it ends without results.
            Err(Stopped { failure, disposition: Disposition::Fail }) if ended.record.failure.is_some() => {
                tracing::error!(job = %claim.id, %failure, "the results cannot be written");
            }
            Err(stopped) => return Err(stopped),
        }
        self.end(claim, ended).await
    }

    /// Fails a job with its open items, and gathers the results that there are.
    async fn fail(&self, claim: &JobClaim, reason: Failure) -> Result<(), Stopped> {
        still_held(self.call_ledger(|now| self.ledger.fail_job(claim, &reason, now)).await?)?;
        self.finalize(claim).await
    }

    /// Publishes the end of an ended job again, for a sender that submitted it again with `reply_to`.
    async fn republish_end(&self, record: JobRecord, delivery: Delivery) {
        let counts = match self.call_ledger(|_| self.ledger.counts(&record.id)).await {
            Ok(counts) => counts,
            Err(error) => return self.requeue(delivery, self.settings.backoff_most, error).await,
        };
        let id = record.id.clone();
        let mut event = self.service.end_event(&EndedJob { end: end_of(&record, &counts), record, counts });
        event.message.reply_to.clone_from(&delivery.message.reply_to);
        event.message.correlation_id.clone_from(&delivery.message.correlation_id);
        match self.call_ledger(|now| self.ledger.insert_event(&id, &event, now)).await {
            Ok(()) => self.acknowledge(delivery, Some(&id), None).await,
            Err(error) => return self.requeue(delivery, self.settings.backoff_most, error).await,
        }
        self.relay().await;
    }

    async fn end(&self, claim: &JobClaim, ended: EndedJob) -> Result<(), Stopped> {
        let event = self.service.end_event(&ended);
        still_held(self.call_ledger(|now| self.ledger.finish(claim, &ended.end, &event, now)).await?)?;
        self.observer.step(Step::Finished(ended.end.state()), Some(&claim.id), None);
        Ok(())
    }
}

/// Returns the end of a job with these counts.
fn end_of(record: &JobRecord, counts: &Counts) -> JobEnd {
    match (&record.failure, counts.succeeded, counts.failed) {
        (Some(reason), ..) => {
            EarlyEnd::of(&reason.code).map_or_else(|| JobEnd::Failed(reason.clone()), JobEnd::Early)
        }
        (None, _, 0) => JobEnd::Succeeded,
        (None, 0, _) => JobEnd::Failed(Failure::new("all_items_failed", "every item has failed")),
        (None, ..) => JobEnd::PartiallySucceeded,
    }
}

fn no_inputs(claim: &JobClaim) -> Failure {
    let text = format!("{}: no input was found: nothing is there, or nothing matches", claim.id);
    Failure::new("no_inputs", text)
}

fn still_held(held: bool) -> Result<(), Stopped> {
    if held { Ok(()) } else { Err(Stopped::stale_claim()) }
}
