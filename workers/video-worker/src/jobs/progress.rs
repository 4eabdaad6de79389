//! Progress of a job with all of its videos.

use inference::progress::Progress;
use jobs::ledger::{JobRecord, Ledger, LedgerError};
use jobs::state::{Counts, JobState};
use jobs::time::Millis;
use serde::Serialize;

/// Progress of a job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JobProgress {
    /// Percent of its items; running items count in part.
    pub percent: f64,
    /// Estimated seconds to its end at the average speed so far; unknown before the first progress.
    pub left_s: Option<f64>,
}

/// Largest number of running items whose progress is read.
const MAX_RUNNING_ITEMS: u32 = 500;

impl JobProgress {
    /// Estimates from `ended` of `total` items, the progress of `running` ones, and the seconds since the first item began.
    pub fn estimate(ended: u64, total: u64, running: &[Progress], running_s: f64) -> Self {
        let part: f64 = running.iter().map(|p| f64::from(p.percent) / 100.0).sum();
        let share = if total == 0 { 0.0 } else { ((ended as f64 + part) / total as f64).min(1.0) };
        let left_s = (share > 0.0 && running_s > 0.0).then(|| running_s * (1.0 - share) / share);
        Self { percent: (1000.0 * share).round() / 10.0, left_s: left_s.map(f64::round) }
    }
}

impl JobProgress {
    /// Returns the progress of a running job; `None` before its first item begins, after its end, and while the number of
    /// its items is unknown.
    pub fn of_job(record: &JobRecord, counts: &Counts, running: &[Progress], now: Millis) -> Option<Self> {
        let (began, total) = (record.entered_at(JobState::Running)?, record.total?);
        let running_s = now.saturating_sub(began) as f64 / 1000.0;
        let ended = total - counts.open().min(total);
        (!record.state.is_end()).then(|| Self::estimate(ended, total, running, running_s))
    }

    /// Returns the progress of a job with the last reported progress of its running items.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn load(
        ledger: &Ledger,
        record: &JobRecord,
        counts: &Counts,
    ) -> Result<Option<Self>, LedgerError> {
        let running = ledger.progress(&record.id, MAX_RUNNING_ITEMS).await?;
        let running: Vec<_> = running.iter().filter_map(|text| Progress::parse(text)).collect();
        Ok(Self::of_job(record, counts, &running, ledger.now().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_job_follows_its_videos() {
        let half = Progress { percent: 50, frames: 9, tokens: 9 };
        let of = JobProgress::estimate;
        assert_eq!(of(0, 0, &[], 5.0), JobProgress { percent: 0.0, left_s: None });
        assert_eq!(of(0, 4, &[], 5.0), JobProgress { percent: 0.0, left_s: None });
        assert_eq!(of(1, 4, &[half, half], 30.0), JobProgress { percent: 50.0, left_s: Some(30.0) });
        assert_eq!(of(4, 4, &[], 30.0), JobProgress { percent: 100.0, left_s: Some(0.0) });
    }
}
