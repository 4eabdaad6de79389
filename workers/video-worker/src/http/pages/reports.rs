//! Reads reports from the store for the pages.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jobs::store::Store;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

/// Largest report that a page reads, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Reports read concurrently.
const CONCURRENT_READS: usize = 8;
/// Time limit for all reports of a page.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Reads reports in the order of their keys: `Ok(None)` if missing, `Err` with the reason why it cannot be shown.
pub async fn read(store: &Store, keys: Vec<Option<String>>) -> Vec<Result<Option<Value>, String>> {
    let until = Instant::now() + TIMEOUT;
    let reading: Vec<_> = keys.into_iter().map(|key| one(store, key, until)).collect();
    stream::iter(reading).buffered(CONCURRENT_READS).collect().await
}

async fn one(store: &Store, key: Option<String>, until: Instant) -> Result<Option<Value>, String> {
    let Some(key) = key else { return Ok(None) };
    let late = |_| format!("{}: the store does not respond", store.url(&key));
    let bytes = timeout_at(until, store.get(&key, MAX_BYTES)).await.map_err(late)?;
    let Some(bytes) = bytes.map_err(|e| e.to_string())? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}: not a report: {e}", store.url(&key)))
}

/// One answer of a report.
pub struct Answer<'r> {
    pub text: &'r str,
    /// Start and end in seconds of the video.
    pub start: f64,
    pub end: f64,
    pub frames: usize,
}

pub fn answers(report: &Value) -> Vec<Answer<'_>> {
    let answer = |answer: &'_ Value| -> (usize, f64, f64) {
        let frames = answer["frame_times"].as_array().into_iter().flatten();
        let frames = frames.filter_map(Value::as_array).map(Vec::len).sum();
        (frames, answer["start"].as_f64().unwrap_or(0.0), answer["end"].as_f64().unwrap_or(0.0))
    };
    let all = report["answers"].as_array().into_iter().flatten();
    all.map(|found| {
        let (frames, start, end) = answer(found);
        Answer { text: found["text"].as_str().unwrap_or(""), start, end, frames }
    })
    .collect()
}
