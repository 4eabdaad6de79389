//! Records of the ledger -> lines of text and JSON objects.

use inference::progress::Progress;
use inference::time::human_time;
use jobs::ledger::{ItemRecord, JobRecord};
use jobs::state::{Counts, JobState};
use jobs::time::{Millis, timestamp};
use serde_json::{Map, Value, json};
use video_worker::jobs::progress::JobProgress;

use crate::output::printable;

/// The states that a job has entered, with their times.
pub fn entered_states(record: &JobRecord) -> impl Iterator<Item = (JobState, Millis)> {
    JobState::ALL.into_iter().filter_map(|state| Some((state, record.entered_at(state)?)))
}

/// One line about a job.
pub fn job_line(record: &JobRecord, counts: &Counts, progress: Option<JobProgress>) -> String {
    let total = record.total.map_or_else(|| format!("{}+", counts.total), |total| total.to_string());
    let why = record.failure.as_ref().map(|why| format!("  {}: {}", why.code, printable(&why.message)));
    let progress = progress.map(|JobProgress { percent, left_s }| {
        let left = left_s.map(|s| format!(", about {} left", human_time(s))).unwrap_or_default();
        format!("  {percent:.0} %{left}")
    });
    let cancelled = match counts.cancelled {
        0 => String::new(),
        n => format!(", {n} cancelled"),
    };
    format!(
        "{}  {}  {:<20} {} of {total} succeeded, {} failed, {} running{cancelled}{}{}",
        record.id,
        timestamp(record.accepted_at()),
        record.state.as_str(),
        counts.succeeded,
        counts.failed,
        counts.running,
        progress.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

/// The JSON object of a job, without its items.
pub fn job_json(record: &JobRecord, counts: &Counts, progress: Option<JobProgress>) -> Value {
    let states: Map<_, _> = entered_states(record)
        .map(|(state, at)| (format!("{}_at", state.as_str()), json!(timestamp(at))))
        .collect();
    json!({
        "job_id": record.id,
        "idempotency_key": record.key,
        "status": record.state,
        "states": states,
        "counts": counts,
        "progress": progress,
        "not_before": record.not_before.map(timestamp),
        "deadline": record.deadline.map(timestamp),
        "error": record.failure,
    })
}

/// The JSON object of an item.
pub fn item_json(item: &ItemRecord) -> Value {
    json!({
        "item_id": item.id,
        "status": item.state,
        "attempts": item.attempts(),
        "workers_lost": item.worker_losses,
        "worker": item.worker,
        "progress": item.progress.as_deref().and_then(Progress::parse),
        "ended_at": item.ended_at.map(timestamp),
        "error": item.failure,
    })
}
