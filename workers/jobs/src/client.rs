//! Client of ledger and queue: submits and cancels jobs, and redrives dead letters.

use std::sync::Arc;

use crate::job::NewJob;
use crate::ledger::{Accepted, JobRecord, Ledger, LedgerError};
use crate::message::job_message;
use crate::queue::{Address, DeadLetter, Lane, Queue, QueueError, Sent, Settled, send_traced};
use crate::state::EarlyEnd;
use crate::{Failure, ItemId, JobId};

/// Client of the workers' ledger and queue.
#[derive(Clone)]
pub struct Client {
    pub queue: Arc<dyn Queue>,
    pub ledger: Ledger,
    /// Schema of job messages.
    pub job_schema: &'static str,
}

/// Notification of the workers about a change in the ledger.
#[derive(Debug)]
pub enum Notification {
    Sent,
    /// There is nothing to do for a worker.
    NotNeeded,
    /// The queue failed. A worker's sweep finds the change later.
    Failed(QueueError),
}

/// Result of [`Client::submit`].
#[derive(Debug)]
pub enum Submitted {
    /// The ledger has the job. It is not new if the same request was submitted before.
    Accepted { record: Box<JobRecord>, is_new: bool, notification: Notification },
    /// Another job has its id or key.
    Conflict(Failure),
}

/// Result of [`Client::redrive`].
#[derive(Debug, PartialEq, Eq)]
pub enum Redriven {
    Sent,
    /// It was sent, but the connection was lost before the dead letter was deleted: it stays one.
    SentAndKept,
    /// Not sent: it does not say from which lane it came.
    NoLane,
    /// Not sent: its item has ended, or there is none.
    ItemEnded(JobId, ItemId),
    /// Not sent: no worker with the route of its item has run yet.
    NoQueue,
}

/// Error of a redrive; the message stays a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Client {
    /// Submits a job: inserts it into the ledger and notifies the workers.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted, LedgerError> {
        let (record, is_new) = match self.ledger.accept(job, self.ledger.now().await?).await? {
            Accepted::New(record) => (record, true),
            Accepted::Same(record) => (record, false),
            Accepted::Conflict { existing } => return Ok(Submitted::Conflict(job.conflict_with(&existing))),
        };
        let notification =
            if record.state.is_end() { Notification::NotNeeded } else { self.notify(&record).await };
        Ok(Submitted::Accepted { record: Box::new(record), is_new, notification })
    }

    /// Cancels a job that has neither ended nor begun to finalize, and notifies the workers, so that they gather its results
    /// now and not at the next sweep.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn cancel(&self, job: &JobRecord) -> Result<Notification, LedgerError> {
        let now = self.ledger.now().await?;
        if self.ledger.end_early(&job.id, EarlyEnd::Cancelled, now).await? {
            Ok(self.notify(job).await)
        } else {
            Ok(Notification::NotNeeded)
        }
    }

    async fn notify(&self, job: &JobRecord) -> Notification {
        let message = job_message(self.job_schema, &job.id, &job.message, &job.trace);
        match send_traced(&*self.queue, &Lane::Jobs.into(), &message).await {
            Ok(Sent::Confirmed | Sent::NoQueue) => Notification::Sent,
            Err(error) => Notification::Failed(error),
        }
    }

    /// Sends a dead letter to its lane again and deletes the dead letter, unless its item has ended.
    ///
    /// # Errors
    /// Ledger or queue cannot be reached; the message stays a dead letter.
    pub async fn redrive(&self, letter: DeadLetter) -> Result<Redriven, RedriveError> {
        let item = letter.item();
        let DeadLetter { lane, delivery, .. } = letter;
        let Some(lane) = lane else { return Ok(Redriven::NoLane) };
        let queue = match item {
            None => Address::from(lane),
            Some((job, item)) => match self.ledger.item_queue(&job, &item).await? {
                Some((state, queue)) if !state.is_end() => queue,
                _ => return Ok(Redriven::ItemEnded(job, item)),
            },
        };
        // Acknowledge afterwards: a duplicate does no harm, a loss does.
        if send_traced(&*self.queue, &queue, &delivery.message.clone()).await? == Sent::NoQueue {
            return Ok(Redriven::NoQueue);
        }
        Ok(match delivery.ack().await {
            Settled::Confirmed => Redriven::Sent,
            Settled::Lost => Redriven::SentAndKept,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;
    use crate::job::NewItem;
    use crate::ledger::LedgerSettings;
    use crate::queue::{MemoryQueue, Message};
    use crate::secret_url::SecretUrl;
    use crate::state::JobState;
    use crate::trace::TraceContext;

    async fn client() -> Client {
        let url = SecretUrl::new("sqlite::memory:");
        let ledger = Ledger::open(&url, &LedgerSettings::default()).await.unwrap();
        ledger.migrate().await.unwrap();
        Client { queue: Arc::new(MemoryQueue::new()), ledger, job_schema: "job/1" }
    }

    fn job(id: &str, request: &str) -> NewJob {
        NewJob {
            id: JobId::try_from(id.to_owned()).unwrap(),
            key: id.into(),
            request_sha256: request.into(),
            message: "{}".into(),
            not_before: None,
            deadline: None,
            trace: TraceContext::default(),
        }
    }

    async fn submitted(client: &Client, job: &NewJob) -> (JobRecord, bool) {
        match client.submit(job).await.unwrap() {
            Submitted::Accepted { record, is_new, .. } => (*record, is_new),
            Submitted::Conflict(failure) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn submits_a_job_once_and_notifies_each_time() {
        let client = client().await;
        let (record, is_new) = submitted(&client, &job("a", "request")).await;
        assert_eq!((record.state, is_new), (JobState::Accepted, true));
        assert!(!submitted(&client, &job("a", "request")).await.1);
        let conflict = client.submit(&job("a", "other")).await.unwrap();
        assert!(matches!(conflict, Submitted::Conflict(why) if why.code == "idempotency_conflict"));
        assert_eq!(client.queue.waiting(&Lane::Jobs.into()).await.unwrap(), 2);
        let message = client.queue.consumer(&Lane::Jobs.into()).await.next().await.message.clone();
        assert_eq!(
            (message.id.as_str(), message.kind.as_str(), &message.body[..]),
            ("a", "job/1", &b"{}"[..])
        );
    }

    #[tokio::test]
    async fn cancels_a_job_once() {
        let client = client().await;
        let (record, _) = submitted(&client, &job("a", "request")).await;
        assert!(matches!(client.cancel(&record).await.unwrap(), Notification::Sent));
        assert!(matches!(client.cancel(&record).await.unwrap(), Notification::NotNeeded));
        let record = client.ledger.job(&record.id).await.unwrap().unwrap();
        assert_eq!(
            (record.state, record.failure.unwrap().code.as_str()),
            (JobState::Finalizing, "cancelled")
        );
        assert_eq!(client.queue.waiting(&Lane::Jobs.into()).await.unwrap(), 2);
    }

    /// Makes a message of the lane a dead letter and redrives it.
    async fn redriven(client: &Client, lane: Lane, id: &str) -> Redriven {
        let message = Message::new(id.into(), "any", "body");
        assert_eq!(client.queue.send(&lane.into(), &message).await.unwrap(), Sent::Confirmed);
        // A consumer that is dropped requeues what it has delivered.
        let mut consumer = client.queue.consumer(&lane.into()).await;
        let delivery = consumer.next().await;
        delivery.dead_letter(&Failure::new("bad", "bad")).await.unwrap();
        let letter = client.queue.dead_letters(1).await.unwrap().remove(0);
        client.redrive(letter).await.unwrap()
    }

    #[tokio::test]
    async fn redrives_only_what_has_not_ended() {
        let client = client().await;
        let (record, _) = submitted(&client, &job("a", "request")).await;
        let _ = client.queue.consumer(&Lane::Jobs.into()).await.next().await.ack().await;
        let ledger = &client.ledger;
        let now = ledger.now().await.unwrap();
        let claim =
            ledger.claim_job(&record.id, "w", now, std::time::Duration::from_secs(9)).await.unwrap().unwrap();
        let id = ItemId::try_from("clip".to_owned()).unwrap();
        let item = NewItem { id: id.clone(), queue: Lane::Items.into(), message: "{}".into() };
        assert!(ledger.add_items(&claim, &[item], 0, now).await.unwrap());

        assert_eq!(redriven(&client, Lane::Items, "a/clip").await, Redriven::Sent);
        assert_eq!(client.queue.waiting(&Lane::Items.into()).await.unwrap(), 1);
        assert_eq!(redriven(&client, Lane::Jobs, "not a job").await, Redriven::Sent);
        assert!(client.queue.dead_letters(9).await.unwrap().is_empty());

        assert!(ledger.fail_job(&claim, &Failure::new("x", "y"), now).await.unwrap());
        let ended = redriven(&client, Lane::Urgent, "a/clip").await;
        assert_eq!(ended, Redriven::ItemEnded(record.id, id));
        assert_eq!(client.queue.dead_letters(9).await.unwrap().len(), 1, "it stays a dead letter");
    }
}
