//! Reading of item reports from the store.

use jobs::store::{Store, StoreError};

use crate::api::ItemReport;

/// Error of reading a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{url}: not a report: {source}")]
    Malformed { url: String, source: serde_json::Error },
}

/// Reads a report of at most `max_bytes` bytes; `None` if there is none.
///
/// # Errors
/// The store is unavailable, or the object is larger than `max_bytes` or not a report.
pub async fn read_report(
    store: &Store,
    key: &str,
    max_bytes: u64,
) -> Result<Option<ItemReport>, ReportError> {
    let Some(bytes) = store.get(key, max_bytes).await? else { return Ok(None) };
    let report = ItemReport::parse(&bytes);
    report.map(Some).map_err(|source| ReportError::Malformed { url: store.url(key), source })
}

/// Reads a report as [`read_report`], and treats an object that is not a report as no report, with a warning in the log.
///
/// # Errors
/// The store is unavailable, or the object is larger than `max_bytes`.
pub async fn read_valid_report(
    store: &Store,
    key: &str,
    max_bytes: u64,
) -> Result<Option<ItemReport>, StoreError> {
    match read_report(store, key, max_bytes).await {
        Ok(report) => Ok(report),
        Err(ReportError::Store(error)) => Err(error),
        Err(error @ ReportError::Malformed { .. }) => {
            tracing::warn!(%error, "ignored");
            Ok(None)
        }
    }
}
