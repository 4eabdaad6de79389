//! Progress of a video, and of a job with all of its videos.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "service")]
use jobs::job::{Counts, JobState, Millis};
#[cfg(feature = "service")]
use jobs::ledger::{JobRecord, Ledger, LedgerError};
use serde::{Deserialize, Serialize};

/// Counter of frames, tokens and answers of a running analysis. Clones share the counts; counters with equal counts are
/// equal.
#[derive(Debug, Clone, Default)]
pub struct ProgressCounter(Arc<CounterState>);

#[derive(Debug, Default)]
struct CounterState {
    frames: AtomicU64,
    tokens: AtomicU64,
    answers: AtomicU64,
    /// 0 while unknown.
    expected: AtomicU64,
}

impl PartialEq for ProgressCounter {
    fn eq(&self, other: &Self) -> bool {
        self.progress() == other.progress()
    }
}

/// Progress of one video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Answers so far, in percent of the expected ones.
    pub percent: u8,
    /// Decoded frames.
    pub frames: u64,
    /// Generated tokens.
    pub tokens: u64,
}

impl ProgressCounter {
    /// Sets the number of expected answers.
    pub fn expect(&self, answers: u64) {
        self.0.expected.store(answers, Ordering::Relaxed);
    }

    /// Counts a decoded frame.
    pub fn frame(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer of `tokens` tokens.
    pub fn answer(&self, tokens: usize) {
        self.0.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.0.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current progress.
    pub fn progress(&self) -> Progress {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let CounterState { frames, tokens, answers, expected } = &*self.0;
        // 100 only when the report is written.
        let percent = (100 * read(answers)).checked_div(read(expected)).unwrap_or(0).min(99);
        Progress { percent: percent as u8, frames: read(frames), tokens: read(tokens) }
    }
}

impl Progress {
    /// Returns the JSON that a heartbeat carries.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers become JSON")
    }

    /// Parses the JSON of a heartbeat; `None` if another build wrote it in another format.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Progress of a job.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JobProgress {
    /// Percent of its items; running items count in part.
    pub percent: f64,
    /// Estimated seconds to its end at the average speed so far; unknown before the first progress.
    pub left_s: Option<f64>,
}

impl JobProgress {
    /// Estimates from `ended` of `total` items, the progress of `running` ones, and the seconds since the first item began.
    pub fn estimate(ended: u64, total: u64, running: &[Progress], running_s: f64) -> Self {
        let part: f64 = running.iter().map(|p| f64::from(p.percent) / 100.0).sum();
        let share = if total == 0 { 0.0 } else { ((ended as f64 + part) / total as f64).min(1.0) };
        let left_s = (share > 0.0 && running_s > 0.0).then(|| running_s * (1.0 - share) / share);
        Self { percent: (1000.0 * share).round() / 10.0, left_s: left_s.map(f64::round) }
    }
}

/// Largest number of running items whose progress is read.
#[cfg(feature = "service")]
const MAX_RUNNING_ITEMS: u32 = 500;

#[cfg(feature = "service")]
impl JobProgress {
    /// Returns the progress of a running job; `None` before its first item begins, after its end, and while the number of
    /// its items is unknown.
    pub fn of_job(record: &JobRecord, counts: &Counts, running: &[Progress], now: Millis) -> Option<Self> {
        let (began, total) = (record.entered(JobState::Running)?, record.total?);
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
        now: Millis,
    ) -> Result<Option<Self>, LedgerError> {
        let running = ledger.progress(&record.id, MAX_RUNNING_ITEMS).await?;
        let running: Vec<_> = running.iter().filter_map(|text| Progress::parse(text)).collect();
        Ok(Self::of_job(record, counts, &running, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_video_follows_its_answers() {
        let counter = ProgressCounter::default();
        assert_eq!(counter.progress(), Progress { percent: 0, frames: 0, tokens: 0 });
        counter.expect(3);
        counter.clone().frame();
        counter.answer(7);
        let progress = counter.progress();
        assert_eq!(progress, Progress { percent: 33, frames: 1, tokens: 7 });
        assert_eq!(Progress::parse(&progress.json()), Some(progress));
        counter.answer(1);
        counter.answer(1);
        assert_eq!(counter.progress().percent, 99, "the report is not written yet");
        assert_eq!(Progress::parse("{}"), None);
    }

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
