//! Reads reports from the store for the pages.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jobs::store::Store;
use tokio::time::{Instant, timeout_at};

use crate::api::{Item, ItemReport, report_key};
use crate::jobs::reports::read_report;

/// Largest report that a page reads, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Reports read concurrently.
const CONCURRENT_READS: usize = 8;
/// Time limit for all reports of a page.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A report: `Ok(None)` if missing, `Err` with the reason why it cannot be shown.
pub type ReadReport = Result<Option<ItemReport>, String>;

/// Reads the reports of items in their order.
pub async fn read(store: &Store, items: Vec<Option<Item>>) -> Vec<ReadReport> {
    let until = Instant::now() + TIMEOUT;
    let reading: Vec<_> = items.into_iter().map(|item| one(store, item, until)).collect();
    stream::iter(reading).buffered(CONCURRENT_READS).collect().await
}

async fn one(store: &Store, item: Option<Item>, until: Instant) -> ReadReport {
    let Some(item) = item else { return Ok(None) };
    let url = || store.url(&report_key(&item.output, &item.job_id, &item.item_id));
    let late = |_| format!("{}: the store does not respond", url());
    let report = timeout_at(until, read_report(store, &item, MAX_BYTES)).await.map_err(late)?;
    report.map_err(|e| e.to_string())
}
