//! Item reports in the store: only the report of an item counts, not another object in its place.

use bytes::Bytes;
use jobs::Failure;
use jobs::message::is_newer;
use jobs::store::{Put, Store, StoreError};
use serde_json::Value;

use crate::api::{Item, ItemReport, MAX_REPORT_BYTES, REPORT_SCHEMA, report_key};

/// Error of reading or storing the report of an item.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another object is in the place of the report.
    #[error("{url}: is not the report of this video: {reason}")]
    Foreign { url: String, reason: String },
    /// A newer build has written it.
    #[error("{url}: schema {schema:?} is newer than this build")]
    Newer { url: String, schema: String },
}

/// Reads the report of an item, of at most `max_bytes` bytes; `None` if there is no object.
///
/// # Errors
/// The store is unavailable, or the object is larger than `max_bytes` or not the report of the item.
pub async fn read_report(
    store: &Store,
    item: &Item,
    max_bytes: u64,
) -> Result<Option<ItemReport>, ReportError> {
    let key = key(item);
    match store.get(&key, max_bytes).await {
        Ok(Some(bytes)) => check(item, store.url(&key), &bytes).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(too_large_is_foreign(error)),
    }
}

/// Reads the report of an item that has ended with a report. Returns the failure of the item if its report is gone, or another
/// object is in its place.
///
/// # Errors
/// The store is unavailable, or a newer build has written the report.
pub async fn written_report(store: &Store, item: &Item) -> Result<Result<ItemReport, Failure>, ReportError> {
    match read_report(store, item, MAX_REPORT_BYTES).await {
        Ok(Some(report)) => Ok(Ok(report)),
        Ok(None) => {
            let text = format!("{}: the report of this video is gone", store.url(&key(item)));
            Ok(Err(Failure::new("report_missing", text)))
        }
        Err(error @ ReportError::Foreign { .. }) => {
            Ok(Err(Failure::new("report_changed", error.to_string())))
        }
        Err(error @ (ReportError::Store(_) | ReportError::Newer { .. })) => Err(error),
    }
}

/// Stores the report of an item. Returns the report of another attempt if there is one, which stays.
///
/// # Errors
/// The store is unavailable, or another object is in the place of the report.
pub async fn put_report(
    store: &Store,
    item: &Item,
    bytes: Vec<u8>,
) -> Result<Option<ItemReport>, ReportError> {
    let key = key(item);
    match store.put_new(&key, Bytes::from(bytes)).await {
        Ok(Put::Created | Put::Same) => Ok(None),
        Ok(Put::Other(there)) => check(item, store.url(&key), &there).map(Some),
        Err(error) => Err(too_large_is_foreign(error)),
    }
}

fn key(item: &Item) -> String {
    report_key(&item.output, &item.job_id, &item.item_id)
}

fn check(item: &Item, url: String, bytes: &[u8]) -> Result<ItemReport, ReportError> {
    let reason = match ItemReport::parse(bytes) {
        Ok(report) if report.schema == REPORT_SCHEMA => match report.check_item(item) {
            Ok(()) => return Ok(report),
            Err(reason) => reason,
        },
        Ok(ItemReport { schema, .. }) => format!("its schema is {schema:?}"),
        Err(error) => error.to_string(),
    };
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    match object["schema"].as_str() {
        Some(schema) if is_newer(schema, REPORT_SCHEMA) => {
            Err(ReportError::Newer { url, schema: schema.to_owned() })
        }
        Some(_) | None => Err(ReportError::Foreign { url, reason }),
    }
}

/// No report is larger than [`MAX_REPORT_BYTES`], which is also the limit up to which [`Store::put_new`] reads an object back.
fn too_large_is_foreign(error: StoreError) -> ReportError {
    match error {
        StoreError::TooLarge { url, limit } if limit >= MAX_REPORT_BYTES => {
            ReportError::Foreign { url, reason: format!("it has more than {limit} bytes") }
        }
        other => ReportError::Store(other),
    }
}
