//! Outbox of events. An event is inserted in one transaction with the change that it reports, so no crash loses it. The
//! relay publishes it at least once: it deletes the event after publishing, and a crash in between publishes it again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::record::{count, job_id};
use super::{Ledger, LedgerError};
use crate::JobId;
use crate::queue::{Event, Message};
use crate::time::{Millis, later};
use crate::trace::TraceContext;

/// Event that a relay has claimed for the length of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    pub job: JobId,
    /// Number of the event among those of its job (column `number`; `jobs.news` counts them).
    pub number: i64,
    pub event: Event,
    attempt: i64,
}

/// Event as JSON in the table. Untrusted text gets no column of its own, because Postgres refuses a NUL there.
#[derive(Serialize, Deserialize)]
struct StoredEvent {
    topic: String,
    id: String,
    kind: String,
    body: String,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    /// W3C Trace Context.
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    tracestate: Option<String>,
}

impl Ledger {
    /// Inserts an event of a known job, to be published after the job's earlier events.
    ///
    /// # Errors
    /// The ledger cannot be reached, and the event may have been inserted; or there is no such job.
    pub async fn insert_event(&self, job: &JobId, event: &Event, now: Millis) -> Result<(), LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let numbered = sqlx::query("UPDATE jobs SET news = news + 1 WHERE id = $1 RETURNING news");
        let row = numbered.bind(job.as_str()).fetch_all(&mut *transaction).await?.pop();
        let row =
            row.ok_or_else(|| LedgerError::BadRow(format!("cannot insert an event of {job}: no such job")))?;
        insert(&mut transaction, job, row.try_get("news")?, event, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Claims the oldest unclaimed event that is the first of its job. Returns `None` if there is none, or another relay was
    /// faster.
    ///
    /// # Errors
    /// The ledger cannot be reached. The event may have been claimed; then its lease expires.
    pub async fn claim_events(
        &self,
        now: Millis,
        lease: Duration,
    ) -> Result<Option<OutboxEvent>, LedgerError> {
        let claim = sqlx::query(
            "UPDATE outbox SET attempt = attempt + 1, lease_until = $2
             WHERE (lease_until IS NULL OR lease_until < $1) AND (job_id, number) IN (
                 SELECT job_id, number FROM outbox AS first
                 WHERE (lease_until IS NULL OR lease_until < $1) AND NOT EXISTS (
                     SELECT 1 FROM outbox AS earlier
                     WHERE earlier.job_id = first.job_id AND earlier.number < first.number
                 )
                 ORDER BY entered_at, job_id LIMIT 1
             )
             RETURNING job_id, number, event, attempt",
        );
        let row = self.written(claim.bind(now).bind(later(now, lease))).await?;
        row.as_ref().map(OutboxEvent::read).transpose()
    }

    /// Deletes a published event, also if another relay has claimed it meanwhile.
    ///
    /// # Errors
    /// The ledger cannot be reached. The event may be published again.
    pub async fn mark_published(&self, event: &OutboxEvent) -> Result<(), LedgerError> {
        let query = sqlx::query("DELETE FROM outbox WHERE job_id = $1 AND number = $2");
        query.bind(event.job.as_str()).bind(event.number).execute(&self.pool).await?;
        Ok(())
    }

    /// Postpones an event that could not be published until `due`. Changes nothing if another relay has claimed it.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn postpone_events(&self, event: &OutboxEvent, due: Millis) -> Result<(), LedgerError> {
        let query = sqlx::query(
            "UPDATE outbox SET lease_until = $3 WHERE job_id = $1 AND number = $2 AND attempt = $4",
        );
        let query = query.bind(event.job.as_str()).bind(event.number).bind(due).bind(event.attempt);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Returns the number of events that are not published yet.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn outbox_pending(&self) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS pending FROM outbox").fetch_one(&self.pool).await?;
        count(row.try_get("pending")?, "pending")
    }
}

/// Inserts the event with this number, in the transaction that has counted it.
pub(super) async fn insert(
    transaction: &mut AnyConnection,
    job: &JobId,
    number: i64,
    event: &Event,
    now: Millis,
) -> Result<(), LedgerError> {
    let Event { topic, message } = event.clone();
    let Message { id, kind, body, reply_to, correlation_id, trace } = message;
    let body = String::from_utf8_lossy(&body).into_owned();
    // The relay may publish it outside the job's span.
    let trace = trace.or(&TraceContext::current());
    let (traceparent, tracestate) =
        (trace.traceparent().map(String::from), trace.tracestate().map(String::from));
    let stored = StoredEvent { topic, id, kind, body, reply_to, correlation_id, traceparent, tracestate };
    let stored = serde_json::to_string(&stored).map_err(|reason| LedgerError::BadRow(reason.to_string()))?;
    let query = sqlx::query("INSERT INTO outbox (job_id, number, event, entered_at) VALUES ($1, $2, $3, $4)");
    query.bind(job.as_str()).bind(number).bind(stored).bind(now).execute(transaction).await?;
    Ok(())
}

impl OutboxEvent {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        let text: String = row.try_get("event")?;
        let stored: StoredEvent =
            serde_json::from_str(&text).map_err(|reason| LedgerError::BadRow(reason.to_string()))?;
        let StoredEvent { topic, id, kind, body, reply_to, correlation_id, traceparent, tracestate } = stored;
        let trace = TraceContext::parse(traceparent.as_deref(), tracestate.as_deref());
        let message = Message { id, kind, body: Bytes::from(body), reply_to, correlation_id, trace };
        Ok(Self {
            job: job_id(row, "job_id")?,
            number: row.try_get("number")?,
            event: Event { topic, message },
            attempt: row.try_get("attempt")?,
        })
    }
}
