//! Runtime context of a request: job, priority, cancellation, progress.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::progress::ProgressCounter;

/// Context of a request: the job that it belongs to, and the handles that accompany it while it runs.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// Job id; the engine's queue is fair between jobs.
    pub job: String,
    pub priority: Priority,
    /// Checked between any two steps.
    pub cancel: Cancel,
    /// Counts frames and answers.
    pub progress: ProgressCounter,
}

/// Priority of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    #[default]
    Normal,
    /// For interactive use: every worker has separate slots for urgent videos.
    Urgent,
}

impl Priority {
    /// Whether it is the default.
    pub fn is_normal(&self) -> bool {
        *self == Priority::Normal
    }
}

/// Cancellation of a request: a condition that is polled. Clones share it. The default is never cancelled.
#[derive(Clone, Default)]
pub struct Cancel(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Cancel {
    /// Returns a cancellation that polls `condition`, such as `token.is_cancelled()`.
    pub fn when(condition: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(condition)))
    }

    /// Returns a cancellation by a flag, and the flag.
    pub fn by_flag() -> (Self, CancelFlag) {
        let flag = CancelFlag::default();
        let shared = flag.clone();
        (Self::when(move || shared.is_set()), flag)
    }

    /// Returns whether the request is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|condition| condition())
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

/// Flag that cancels requests. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Cancels.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_cancellation() {
        let (cancel, flag) = Cancel::by_flag();
        let clone = cancel.clone();
        assert!(!cancel.is_cancelled() && !Cancel::default().is_cancelled());
        flag.set();
        assert!(cancel.is_cancelled() && clone.is_cancelled());
    }
}
