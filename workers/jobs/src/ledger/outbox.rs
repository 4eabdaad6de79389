//! News on their way to the queue. They are entered in one transaction with what they tell of, so none is lost with the
//! process that was about to send it; whoever has sent one crosses it out, and dies between the two at worst: then it is
//! sent again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::record::{count, job_id};
use super::{Ledger, LedgerError};
use crate::job::{JobId, Millis, later};
use crate::queue::{Event, Message};
use crate::trace::TraceContext;

/// News that somebody has taken to send them, for the length of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub job: JobId,
    /// Its place among the news of its job.
    pub number: i64,
    pub event: Event,
    attempt: i64,
}

/// An event as it stands in the table: no text of a stranger is a column of its own, which Postgres would refuse when it
/// holds a NUL.
#[derive(Serialize, Deserialize)]
struct Kept {
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
    /// Enters news about a job that is known, to be sent after those before them.
    ///
    /// # Errors
    /// The ledger cannot be reached, then they may have been entered; or there is no such job.
    pub async fn enter_news(&self, job: &JobId, news: &Event, now: Millis) -> Result<(), LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let numbered = sqlx::query("UPDATE jobs SET news = news + 1 WHERE id = $1 RETURNING news");
        let row = numbered.bind(job.as_str()).fetch_all(&mut *transaction).await?.pop();
        let row =
            row.ok_or_else(|| LedgerError::Row(format!("there are news of {job}, which is not there")))?;
        enter(&mut transaction, job, row.try_get("news")?, news, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes news to send them: the oldest that nobody has taken and before which there are none of the same job. `None`:
    /// there are none, or another was faster.
    ///
    /// # Errors
    /// The ledger cannot be reached; they may have been taken, then the lease runs out.
    pub async fn claim_news(&self, now: Millis, lease: Duration) -> Result<Option<News>, LedgerError> {
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
        row.as_ref().map(News::read).transpose()
    }

    /// Crosses out news that the queue has: whoever has them taken meanwhile need not send them.
    ///
    /// # Errors
    /// The ledger cannot be reached; they may be sent again.
    pub async fn told(&self, news: &News) -> Result<(), LedgerError> {
        let query = sqlx::query("DELETE FROM outbox WHERE job_id = $1 AND number = $2");
        query.bind(news.job.as_str()).bind(news.number).execute(&self.pool).await?;
        Ok(())
    }

    /// They could not be sent: nobody tries before `due`. Changes nothing when another has taken them.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn postpone_news(&self, news: &News, due: Millis) -> Result<(), LedgerError> {
        let query = sqlx::query(
            "UPDATE outbox SET lease_until = $3 WHERE job_id = $1 AND number = $2 AND attempt = $4",
        );
        let query = query.bind(news.job.as_str()).bind(news.number).bind(due).bind(news.attempt);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// How many news are not sent yet.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn news_waiting(&self) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS news FROM outbox").fetch_one(&self.pool).await?;
        count(row.try_get("news")?, "news")
    }
}

/// Enters the news of that number, as a part of the transaction that has counted them.
pub(super) async fn enter(
    transaction: &mut AnyConnection,
    job: &JobId,
    number: i64,
    news: &Event,
    now: Millis,
) -> Result<(), LedgerError> {
    let Event { topic, message } = news.clone();
    let Message { id, kind, body, reply_to, correlation_id, trace } = message;
    let body = String::from_utf8_lossy(&body).into_owned();
    // Whoever sends it later does so outside the job's span.
    let trace = trace.or(&TraceContext::current());
    let (traceparent, tracestate) =
        (trace.traceparent().map(String::from), trace.tracestate().map(String::from));
    let kept = Kept { topic, id, kind, body, reply_to, correlation_id, traceparent, tracestate };
    let kept = serde_json::to_string(&kept).map_err(|why| LedgerError::Row(why.to_string()))?;
    let query = sqlx::query("INSERT INTO outbox (job_id, number, event, entered_at) VALUES ($1, $2, $3, $4)");
    query.bind(job.as_str()).bind(number).bind(kept).bind(now).execute(transaction).await?;
    Ok(())
}

impl News {
    fn read(row: &AnyRow) -> Result<Self, LedgerError> {
        let kept: String = row.try_get("event")?;
        let kept: Kept = serde_json::from_str(&kept).map_err(|why| LedgerError::Row(why.to_string()))?;
        let Kept { topic, id, kind, body, reply_to, correlation_id, traceparent, tracestate } = kept;
        let trace = TraceContext::read(traceparent.as_deref(), tracestate.as_deref());
        let message = Message { id, kind, body: Bytes::from(body), reply_to, correlation_id, trace };
        Ok(Self {
            job: job_id(row, "job_id")?,
            number: row.try_get("number")?,
            event: Event { topic, message },
            attempt: row.try_get("attempt")?,
        })
    }
}
