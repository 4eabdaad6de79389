//! Messages that the worker sends, settles and refuses.

use std::time::Duration;

use super::{Service, Step, Worker};
use crate::queue::{Address, Delivery, Message, QueueError, Sent, Settled, publish_traced, send_traced};
use crate::retry::retry_with_backoff;
use crate::{Disposition, Failure, ItemId, JobId, Stopped, trace};

impl<S: Service> Worker<S> {
    pub(super) async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError> {
        self.call_queue(|| send_traced(&*self.queue, to, message)).await
    }

    /// Calls the queue, and retries every error until the worker releases its work.
    async fn call_queue<T, F>(&self, call: impl FnMut() -> F) -> Result<T, QueueError>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let Self { settings, stop, .. } = self;
        tokio::select! {
            result = retry_with_backoff(settings.backoff(), settings.retry_timeout, |_| true, call) => result,
            () = stop.aborted() => Err(QueueError("this worker is stopping".to_owned())),
        }
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

    /// Refuses a message: notifies its sender and makes it a dead letter, or requeues it if its refusal is not permanent.
    pub(super) async fn refuse(&self, delivery: Delivery, stopped: Stopped) {
        let backoff_most = self.settings.backoff_most;
        let reason = match stopped.disposition {
            Disposition::Fail => stopped.failure,
            Disposition::Retry(_) | Disposition::WorkerFault | Disposition::Cancelled => {
                return self.requeue(delivery, backoff_most, stopped).await;
            }
        };
        let event = self.service.refusal_event(&delivery.message, &reason);
        // The event belongs to no known job, so it has no outbox: the message stays until the event is published.
        if let Err(error) = self.call_queue(|| publish_traced(&*self.queue, &event)).await {
            return self.requeue(delivery, backoff_most, error).await;
        }
        self.dead_letter(delivery, &reason).await;
        self.observer.step(Step::Refused(&reason), None, None);
    }

    /// Refuses a message that conflicts with a known job. The event goes through the outbox of that job.
    pub(super) async fn refuse_conflicting(&self, existing: &JobId, delivery: Delivery, reason: Failure) {
        let event = self.service.refusal_event(&delivery.message, &reason);
        let insert = |now| self.ledger.insert_event(existing, &event, now);
        if let Err(error) = self.call_ledger(insert).await {
            return self.requeue(delivery, self.settings.backoff_most, error).await;
        }
        self.dead_letter(delivery, &reason).await;
        self.observer.step(Step::Refused(&reason), None, None);
        self.relay().await;
    }

    pub(super) async fn dead_letter(&self, delivery: Delivery, reason: &Failure) {
        self.settle_stopped(delivery, &Stopped::fail(reason.clone()), Duration::ZERO).await;
    }

    /// Settles the message of work that stopped.
    pub(super) async fn settle_stopped(&self, delivery: Delivery, stopped: &Stopped, after: Duration) {
        let message = delivery.message.id.clone();
        trace::mark_failed(&stopped.failure.code);
        if let Err(error) = delivery.settle_stopped(stopped, after).await {
            // Redelivered, it is acknowledged instead of dead-lettered if the ledger has its end by then.
            tracing::warn!(message, %error, "cannot settle the message; it will be redelivered");
        }
    }
}
