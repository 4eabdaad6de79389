//! Reads reports from the store for the pages.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jobs::store::Store;
use tokio::time::{Instant, timeout_at};

use crate::api::ItemReport;
use crate::jobs::reports::read_report;

/// Largest report that a page reads, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Reports read concurrently.
const CONCURRENT_READS: usize = 8;
/// Time limit for all reports of a page.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A report: `Ok(None)` if missing, `Err` with the reason why it cannot be shown.
pub type ReadReport = Result<Option<ItemReport>, String>;

/// Reads reports in the order of their keys.
pub async fn read(store: &Store, keys: Vec<Option<String>>) -> Vec<ReadReport> {
    let until = Instant::now() + TIMEOUT;
    let reading: Vec<_> = keys.into_iter().map(|key| one(store, key, until)).collect();
    stream::iter(reading).buffered(CONCURRENT_READS).collect().await
}

async fn one(store: &Store, key: Option<String>, until: Instant) -> ReadReport {
    let Some(key) = key else { return Ok(None) };
    let late = |_| format!("{}: the store does not respond", store.url(&key));
    let report = timeout_at(until, read_report(store, &key, MAX_BYTES)).await.map_err(late)?;
    report.map_err(|e| e.to_string())
}
