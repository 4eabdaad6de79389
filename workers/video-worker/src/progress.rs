//! How far the work on a video has come, and a job with all of its videos.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "service")]
use jobs::ledger::{JobRecord, Ledger, LedgerError};
#[cfg(feature = "service")]
use jobs::state::{Counts, JobState};
use jobs::time::Millis;
use serde::{Deserialize, Serialize};

/// Counts while a video is looked at and asked about. Clones count together, and all tallies that were never shared are
/// equal.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    frames: AtomicU64,
    tokens: AtomicU64,
    answers: AtomicU64,
    /// 0 while it is not known.
    expected: AtomicU64,
}

impl PartialEq for Tally {
    fn eq(&self, other: &Self) -> bool {
        self.progress() == other.progress()
    }
}

/// How far one video has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Of the answers that are expected.
    pub percent: u8,
    /// Frames that were decoded.
    pub frames: u64,
    /// Tokens that were written.
    pub tokens: u64,
}

impl Tally {
    /// So many answers are to come.
    pub fn expect(&self, answers: u64) {
        self.0.expected.store(answers, Ordering::Relaxed);
    }

    pub fn frame(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }

    pub fn answer(&self, tokens: usize) {
        self.0.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.0.answers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn progress(&self) -> Progress {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Counted { frames, tokens, answers, expected } = &*self.0;
        // Not done before its report is written.
        let percent = (100 * read(answers)).checked_div(read(expected)).unwrap_or(0).min(99);
        Progress { percent: percent as u8, frames: read(frames), tokens: read(tokens) }
    }
}

impl Progress {
    /// As a heartbeat carries it.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers become JSON")
    }

    /// What another build said differently is unknown.
    pub fn read(said: &str) -> Option<Self> {
        serde_json::from_str(said).ok()
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct JobProgress {
    /// Of its items, those that are being worked on in part.
    pub percent: f64,
    /// Seconds to its end, if it goes on as since it began; not known before something is done.
    pub left_s: Option<f64>,
}

impl JobProgress {
    /// `ended` of `total` items, others as they said of themselves; `running_s`: seconds since its first item began.
    pub fn of(ended: u64, total: u64, said: &[Progress], running_s: f64) -> Self {
        let part: f64 = said.iter().map(|p| f64::from(p.percent) / 100.0).sum();
        let share = if total == 0 { 0.0 } else { ((ended as f64 + part) / total as f64).min(1.0) };
        let left_s = (share > 0.0 && running_s > 0.0).then(|| running_s * (1.0 - share) / share);
        Self { percent: (1000.0 * share).round() / 10.0, left_s: left_s.map(f64::round) }
    }
}

/// Running items of a job that are asked how far they have come.
#[cfg(feature = "service")]
const ASKED: u32 = 500;

#[cfg(feature = "service")]
impl JobProgress {
    /// Of a job that is being worked on; `None` before its first item has begun, after its end, and while nobody knows how
    /// many items it has.
    pub fn of_job(record: &JobRecord, counts: &Counts, said: &[Progress], now: Millis) -> Option<Self> {
        let (began, total) = (record.entered_at(JobState::Running)?, record.total?);
        let running_s = now.saturating_sub(began) as f64 / 1000.0;
        let ended = total - counts.open().min(total);
        (!record.state.is_end()).then(|| Self::of(ended, total, said, running_s))
    }

    /// The same, with what the workers on its items said last.
    ///
    /// # Errors
    /// The ledger cannot be reached.
    pub async fn ask(
        ledger: &Ledger,
        record: &JobRecord,
        counts: &Counts,
        now: Millis,
    ) -> Result<Option<Self>, LedgerError> {
        let said = ledger.progress(&record.id, ASKED).await?;
        let said: Vec<_> = said.iter().filter_map(|said| Progress::read(said)).collect();
        Ok(Self::of_job(record, counts, &said, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_is_as_far_as_its_answers() {
        let tally = Tally::default();
        assert_eq!(tally.progress(), Progress { percent: 0, frames: 0, tokens: 0 });
        tally.expect(3);
        tally.clone().frame();
        tally.answer(7);
        let progress = tally.progress();
        assert_eq!(progress, Progress { percent: 33, frames: 1, tokens: 7 });
        assert_eq!(Progress::read(&progress.json()), Some(progress));
        tally.answer(1);
        tally.answer(1);
        assert_eq!(tally.progress().percent, 99, "its report is still to be written");
        assert_eq!(Progress::read("{}"), None);
    }

    #[test]
    fn a_job_is_as_far_as_its_videos() {
        let half = Progress { percent: 50, frames: 9, tokens: 9 };
        let of = JobProgress::of;
        assert_eq!(of(0, 0, &[], 5.0), JobProgress { percent: 0.0, left_s: None });
        assert_eq!(of(0, 4, &[], 5.0), JobProgress { percent: 0.0, left_s: None });
        assert_eq!(of(1, 4, &[half, half], 30.0), JobProgress { percent: 50.0, left_s: Some(30.0) });
        assert_eq!(of(4, 4, &[], 30.0), JobProgress { percent: 100.0, left_s: Some(0.0) });
    }
}
