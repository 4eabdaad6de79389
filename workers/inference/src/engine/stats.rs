//! Statistics of the engine: queue lengths, batches, memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::limits::EngineLimits;

/// Shared statistics of one engine. Holding them does not keep the engine running. Clones share the same counters.
#[derive(Debug, Clone)]
pub struct EngineStats {
    limits: EngineLimits,
    snapshot: Arc<Mutex<EngineSnapshot>>,
}

/// Values at one moment, and totals since the engine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineSnapshot {
    pub encoder: ThreadStats,
    pub generator: ThreadStats,
    /// Rows that running sequences may come to have.
    pub rows: usize,
    /// Bytes of KV cache that are reserved for them.
    pub kv_bytes: u64,
    /// Bytes of KV cache of cached prefixes, which make room for sequences.
    pub prefix_bytes: u64,
    /// Sequences with a prefix.
    pub prefixes: PrefixCounts,
    /// Bytes of cached media K/V.
    pub media_bytes: u64,
}

/// Sequences with a prefix, by the place where its keys and values were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// In the KV cache.
    pub memory: u64,
    /// On disk.
    pub disk: u64,
    /// In neither: they were computed.
    pub missed: u64,
}

/// Statistics of one of the two threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadStats {
    /// Requests that wait: media to encode, or sequences to admit.
    pub waiting: usize,
    /// Encoder batches, or decode steps.
    pub passes: u64,
    /// Time at work. A GPU works asynchronously: encoding that is still in progress is waited for by the generator thread.
    pub busy: Duration,
}

impl EngineStats {
    pub(super) fn new(limits: EngineLimits) -> Self {
        Self { limits, snapshot: Arc::default() }
    }

    /// Returns the budgets of the engine.
    pub fn limits(&self) -> EngineLimits {
        self.limits
    }

    /// Returns the current values.
    pub fn snapshot(&self) -> EngineSnapshot {
        let mut copy = EngineSnapshot::default();
        self.update(|snapshot| copy = *snapshot);
        copy
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut EngineSnapshot)) {
        // Plain numbers are valid even after a panic.
        update(&mut self.snapshot.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts one more waiting request of a thread until the guard is dropped.
    pub(super) fn queue(&self, thread: fn(&mut EngineSnapshot) -> &mut ThreadStats) -> QueueGuard {
        self.update(|snapshot| thread(snapshot).waiting += 1);
        QueueGuard { stats: self.clone(), thread }
    }
}

/// Counts a request as waiting until it is dropped.
pub(super) struct QueueGuard {
    stats: EngineStats,
    thread: fn(&mut EngineSnapshot) -> &mut ThreadStats,
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.stats.update(|snapshot| (self.thread)(snapshot).waiting -= 1);
    }
}
