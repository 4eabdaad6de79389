//! Progress of a video.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counter of frames, tokens and answers of a running analysis. Clones share the counts.
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

/// Progress of one video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Answers so far, in percent of the expected ones.
    pub percent: u8,
    /// Sampled moments with a decoded frame.
    pub frames: u64,
    /// Generated tokens.
    pub tokens: u64,
}

impl ProgressCounter {
    /// Sets the number of expected answers.
    pub fn expect(&self, answers: u64) {
        self.0.expected.store(answers, Ordering::Relaxed);
    }

    /// Counts the sampled moments of a decoded frame.
    pub fn frames(&self, moments: usize) {
        self.0.frames.fetch_add(moments as u64, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_video_follows_its_answers() {
        let counter = ProgressCounter::default();
        assert_eq!(counter.progress(), Progress { percent: 0, frames: 0, tokens: 0 });
        counter.expect(3);
        counter.clone().frames(1);
        counter.answer(7);
        let progress = counter.progress();
        assert_eq!(progress, Progress { percent: 33, frames: 1, tokens: 7 });
        assert_eq!(Progress::parse(&progress.json()), Some(progress));
        counter.answer(1);
        counter.answer(1);
        assert_eq!(counter.progress().percent, 99, "the report is not written yet");
        assert_eq!(Progress::parse("{}"), None);
    }
}
