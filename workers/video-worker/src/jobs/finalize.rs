//! Collection of the item reports of a job into its results.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jobs::ledger::{ItemRecord, JobClaim, JobRecord};
use jobs::state::{ItemEnd, ItemState};
use jobs::store::StoreError;
use jobs::{Failure, ItemId, Stopped};
use serde::Serialize;

use super::Outputs;
use super::manifest::Tokens;
use super::reports::written_report;
use super::retry_policy::{report_stopped, store_stopped};
use crate::api::{ErrorLine, InputInfo, Item, ItemReport, JobMessage, job_folder, json as to_json};

/// Reports read concurrently, and ledger rows per query.
const CONCURRENT_READS: usize = 16;
const ROWS: u32 = 500;

/// Ended item with its report.
struct Gathered {
    row: ItemRecord,
    /// Content of the item, if this build can read it.
    item: Option<Item>,
    /// Report of the item; a cancelled one has none, and a failed one may have none.
    report: Option<ItemReport>,
    /// Reason why a succeeded item has no report any more.
    lost: Option<Failure>,
}

impl Outputs {
    /// Writes `results.jsonl` and `errors.jsonl` in the order of the inputs. A succeeded item without its report fails, in the
    /// ledger too.
    ///
    /// # Errors
    /// Ledger or store are unavailable, the claim is stale, or the folder has the manifest of another job.
    pub(super) async fn gather(&self, claim: &JobClaim) -> Result<Tokens, Stopped> {
        self.check_manifest(&claim.record).await?;
        let mut tokens = Tokens::default();
        let job = JobMessage::from_ledger(&claim.record.message).map_err(Stopped::fail)?;
        let folder = job_folder(&job.output, &claim.id);
        let unavailable = |e: StoreError| store_stopped(&e);
        let mut results = self.store.upload(&format!("{folder}/results.jsonl")).map_err(unavailable)?;
        let mut errors = self.store.upload(&format!("{folder}/errors.jsonl")).map_err(unavailable)?;
        let mut after: Option<(i64, ItemId)> = None;
        loop {
            let from = after.as_ref().map(|(position, id)| (*position, id));
            let rows = self.ledger.items_with_content(&claim.id, from, ROWS).await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some((last.position, last.id.clone()));
            let mut lost = Vec::new();
            let reading: Vec<_> = rows.into_iter().map(|(row, content)| self.read(row, content)).collect();
            // Written one by one: all of them at once may exceed memory.
            let mut reading = stream::iter(reading).buffered(CONCURRENT_READS);
            while let Some(gathered) = reading.next().await {
                let gathered = gathered?;
                gathered.report.iter().for_each(|report| tokens.add(report.body.answers()));
                let written = match gathered.result_line() {
                    Some(line) => results.write(line).await,
                    None => errors.write(gathered.error_line(&claim.record)).await,
                };
                written.map_err(unavailable)?;
                lost.extend(gathered.lost.map(|why| (gathered.row.id, why)));
            }
            self.fail_lost(claim, &lost).await?;
        }
        results.finish().await.map_err(unavailable)?;
        errors.finish().await.map_err(unavailable)?;
        Ok(tokens)
    }

    /// Reads the report of an item.
    async fn read(&self, row: ItemRecord, content: String) -> Result<Gathered, Stopped> {
        let item = match Item::parse(&content) {
            // A newer build can read it.
            Err(stopped) if stopped.is_transient() => return Err(stopped),
            item => item.map_err(|stopped| stopped.failure),
        };
        let written = match &item {
            // A cancelled item may have a report that was written after its end.
            _ if row.state == ItemState::Cancelled => {
                return Ok(Gathered { row, item: item.ok(), report: None, lost: None });
            }
            Ok(item) => written_report(&self.store, item).await.map_err(|e| report_stopped(&e))?,
            Err(failure) => Err(failure.clone()),
        };
        let (report, lost) = match written {
            written if row.state != ItemState::Succeeded => (written.ok(), None),
            Ok(report) if report.end() == ItemEnd::Succeeded => (Some(report), None),
            Ok(ItemReport { job_id, item_id, .. }) => {
                let text =
                    format!("the report of {job_id}/{item_id} stated a success and now states a failure");
                (None, Some(Failure::new("report_changed", text)))
            }
            Err(failure) => (None, Some(failure)),
        };
        Ok(Gathered { row, item: item.ok(), report, lost })
    }

    /// Fails succeeded items that have lost their reports.
    async fn fail_lost(&self, claim: &JobClaim, lost: &[(ItemId, Failure)]) -> Result<(), Stopped> {
        let Some((item, failure)) = lost.first() else { return Ok(()) };
        tracing::warn!(job = %claim.id, items = lost.len(), %item, %failure, "reports are lost");
        if self.ledger.fail_succeeded_items(claim, lost).await? {
            Ok(())
        } else {
            Err(Stopped::stale_claim())
        }
    }
}

impl Gathered {
    /// Returns the line of a succeeded item: its report.
    fn result_line(&self) -> Option<Bytes> {
        let report = self.report.as_ref().filter(|_| self.row.state == ItemState::Succeeded);
        report.map(json_line)
    }

    /// Returns the line of a failed or cancelled item. A cancelled item may have failed before and been due for a retry, so its
    /// error is that of the job.
    fn error_line(&self, job: &JobRecord) -> Bytes {
        let Self { row, item, report, lost } = self;
        let failure = match row.state {
            ItemState::Cancelled => &job.failure,
            _ => &row.failure,
        };
        let listed = |item: &Item| InputInfo { url: item.video.clone(), bytes: None, etag: None };
        let input = report.as_ref().map(|report| report.input.clone());
        json_line(&ErrorLine {
            item_id: &row.id,
            custom_id: item.as_ref().and_then(|item| item.custom_id.as_deref()),
            input: input.or_else(|| item.as_ref().map(listed)),
            attempt: report.as_ref().map(|report| report.attempt),
            error: lost.as_ref().or(failure.as_ref()),
        })
    }
}

fn json_line(value: &impl Serialize) -> Bytes {
    Bytes::from(to_json(value) + "\n")
}
