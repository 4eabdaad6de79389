//! Cache of media K/V within a byte budget.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::TensorId;
use flamingo::Result;
use flamingo::model::MediaKv;
use flamingo::pipeline::{Medium, Pipeline};

/// K/V of the media that were used last. An evicted entry is projected again from the visual tokens; a running sequence
/// holds its own reference, cached or not.
pub(super) struct MediaKvCache {
    budget: u64,
    entries: HashMap<TensorId, Entry>,
    /// Number of accesses so far.
    clock: u64,
}

struct Entry {
    kv: Arc<MediaKv>,
    last_used: u64,
}

impl MediaKvCache {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, entries: HashMap::new(), clock: 0 }
    }

    /// Returns the K/V of a medium, cached or projected.
    pub(super) fn get(&mut self, pipeline: &Pipeline, medium: &Medium) -> Result<Arc<MediaKv>> {
        self.clock += 1;
        let id = medium.visual_tokens.id();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.last_used = self.clock;
            return Ok(entry.kv.clone());
        }
        let kv = pipeline.project_media(medium)?;
        self.entries.insert(id, Entry { kv: kv.clone(), last_used: self.clock });
        self.evict();
        Ok(kv)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.kv.bytes() as u64).sum()
    }

    /// Evicts the least recently used entries until the budget is met.
    fn evict(&mut self) {
        while self.bytes() > self.budget {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_used);
            let Some(oldest) = oldest.map(|(&id, _)| id) else { return };
            self.entries.remove(&oldest);
        }
    }
}
