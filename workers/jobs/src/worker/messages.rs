//! Messages that the worker sends, settles and refuses.

use std::time::Duration;

use super::{Refusal, Service, Step, Worker};
use crate::queue::{Delivery, Lane, Message, QueueError, Settled};
use crate::retry::retry_with_backoff;
use crate::time::now;
use crate::trace::{self, TraceContext};
use crate::{Failure, ItemId, JobId};

impl<S: Service> Worker<S> {
    pub(super) async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        let Self { settings, queue, .. } = self;
        let send = || queue.send(lane, message);
        retry_with_backoff(settings.backoff, settings.retry_timeout, |_| true, send).await
    }

    /// Builds the message about an item, and returns it with its lane.
    pub(super) fn item_message(
        &self,
        job: &JobId,
        item: &ItemId,
        body: &str,
        trace: &TraceContext,
    ) -> (Lane, Message) {
        let lane = if self.service.is_urgent(body) { Lane::Urgent } else { Lane::Items };
        let message = Message::new(format!("{job}/{item}"), S::ITEM_KIND, body.to_owned());
        (lane, Message { trace: trace.clone(), ..message })
    }

    pub(super) fn job_message(&self, job: &JobId, body: &str, trace: &TraceContext) -> Message {
        let message = Message::new(job.to_string(), S::JOB_KIND, body.to_owned());
        Message { trace: trace.clone(), ..message }
    }

    pub(super) async fn acknowledge(&self, delivery: Delivery, job: Option<&JobId>, item: Option<&ItemId>) {
        let step = match delivery.ack().await {
            Settled::Confirmed => Step::Acknowledged,
            Settled::Lost => Step::AcknowledgementLost,
        };
        self.observer.step(step, job, item);
    }

    /// Requeues a message whose step could not be done in time; it is redelivered after `after`.
    pub(super) async fn requeue(&self, delivery: Delivery, after: Duration, reason: impl std::fmt::Display) {
        let message = delivery.message.id.clone();
        tracing::warn!(message, %reason, "the message is requeued");
        trace::mark_failed("put_back");
        if let Err(error) = delivery.retry_after(after).await {
            tracing::warn!(message, %error, "the message is requeued unacknowledged");
        }
    }

    /// Refuses a message: notifies its sender and makes it a dead letter. A message with a newer schema is requeued.
    pub(super) async fn refuse(&self, delivery: Delivery, refusal: Refusal) {
        let reason = match refusal {
            Refusal::NewerSchema(reason) => {
                return self.requeue(delivery, self.settings.backoff.max, reason).await;
            }
            Refusal::Permanent(reason) => reason,
        };
        let Self { settings, queue, .. } = self;
        let event = self.service.refusal_event(&delivery.message, &reason);
        // The event belongs to no known job, so it has no outbox: the message stays until the event is published.
        let publish = || queue.publish_event(&event);
        let published = retry_with_backoff(settings.backoff, settings.retry_timeout, |_| true, publish).await;
        if let Err(error) = published {
            return self.requeue(delivery, settings.backoff.max, error).await;
        }
        self.dead_letter(delivery, &reason).await;
        self.observer.step(Step::Refused(&reason), None, None);
    }

    /// Refuses a message that conflicts with a known job. The event goes through the outbox of that job.
    pub(super) async fn refuse_conflicting(&self, existing: &JobId, delivery: Delivery, reason: Failure) {
        let event = self.service.refusal_event(&delivery.message, &reason);
        if let Err(error) = self.call_ledger(|| self.ledger.insert_event(existing, &event, now())).await {
            return self.requeue(delivery, self.settings.backoff.max, error).await;
        }
        self.dead_letter(delivery, &reason).await;
        self.observer.step(Step::Refused(&reason), None, None);
        self.relay().await;
    }

    pub(super) async fn dead_letter(&self, delivery: Delivery, reason: &Failure) {
        let message = delivery.message.id.clone();
        trace::mark_failed(&reason.code);
        if let Err(error) = delivery.dead_letter(reason).await {
            // Redelivered, it is acknowledged instead of dead-lettered if the ledger has its end by then.
            tracing::warn!(message, %error, "cannot dead-letter the message; it will be redelivered");
        }
    }
}
