//! Keys and values of media, within a budget.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::TensorId;
use flamingo::Result;
use flamingo::model::MediaKv;
use flamingo::pipeline::{Medium, Pipeline};

/// The keys and values of the media that were asked about last. Made anew from a medium's visual tokens when they are not
/// there; what is being written holds its own, whether or not it is still here.
pub(super) struct KeysInUse {
    budget: u64,
    held: HashMap<TensorId, Held>,
    /// Counts uses.
    now: u64,
}

struct Held {
    keys: Arc<MediaKv>,
    used: u64,
}

impl KeysInUse {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, held: HashMap::new(), now: 0 }
    }

    pub(super) fn of(&mut self, pipeline: &Pipeline, medium: &Medium) -> Result<Arc<MediaKv>> {
        self.now += 1;
        let id = medium.visual_tokens.id();
        if let Some(held) = self.held.get_mut(&id) {
            held.used = self.now;
            return Ok(held.keys.clone());
        }
        let keys = pipeline.media_kv(medium)?;
        self.held.insert(id, Held { keys: keys.clone(), used: self.now });
        self.keep_within_budget();
        Ok(keys)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.held.values().map(|held| held.keys.bytes() as u64).sum()
    }

    /// The least recently used go first.
    fn keep_within_budget(&mut self) {
        while self.bytes() > self.budget {
            let Some(oldest) = self.held.iter().min_by_key(|(_, held)| held.used).map(|(&id, _)| id) else {
                return;
            };
            self.held.remove(&oldest);
        }
    }
}
