//! How busy the engine is, for whoever watches it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::limits::EngineLimits;

/// Reads how busy an engine is, and does not keep it running. Clones read the same one.
#[derive(Debug, Clone)]
pub struct Meter {
    limits: EngineLimits,
    load: Arc<Mutex<Load>>,
}

/// What an engine does now, and has done since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub looking: Work,
    pub writing: Work,
    /// Rows that answers being written may come to have.
    pub rows: usize,
    /// Bytes of keys and values that are promised to them.
    pub kv_bytes: u64,
    /// Bytes of keys and values of media, for whoever asks about them next.
    pub media_bytes: u64,
}

/// One of the engine's threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Media that wait to be looked at, or answers to be begun.
    pub waiting: usize,
    /// Batches of media that were looked at together, or steps of the language model.
    pub passes: u64,
    /// How long the thread was at it. A GPU goes on by itself: what it still looks at, the thread that writes waits for.
    pub busy: Duration,
}

impl Meter {
    pub(super) fn new(limits: EngineLimits) -> Self {
        Self { limits, load: Arc::default() }
    }

    /// What the engine may use of each.
    pub fn limits(&self) -> EngineLimits {
        self.limits
    }

    pub fn read(&self) -> Load {
        let mut read = Load::default();
        self.note(|load| read = *load);
        read
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Load)) {
        // Numbers are whole, whoever panicked.
        note(&mut self.load.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn waits(&self, to: fn(&mut Load) -> &mut Work) -> Waits {
        self.note(|load| to(load).waiting += 1);
        Waits { meter: self.clone(), to }
    }
}

/// One that waits, until this is dropped.
pub(super) struct Waits {
    meter: Meter,
    to: fn(&mut Load) -> &mut Work,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.meter.note(|load| (self.to)(load).waiting -= 1);
    }
}
