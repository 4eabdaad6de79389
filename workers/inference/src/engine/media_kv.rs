//! Cache of media K/V within a byte budget.

use std::sync::Arc;

use candle_core::TensorId;
use flamingo::Result;
use flamingo::model::MediaKv;
use flamingo::pipeline::{Medium, Pipeline};
use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

/// Estimated number of media in the cache.
const ESTIMATED_ENTRIES: usize = 256;

/// K/V of recently used media, by the id of their visual tokens. An evicted entry is projected again on its next use. Entries
/// of running sequences stay, even over the budget: the sequences hold them, so eviction would free no memory.
pub(super) struct MediaKvCache<V: Size = MediaKv> {
    entries: Cache<TensorId, Arc<V>, ByteWeighter, DefaultHashBuilder, KeepUsed>,
}

/// Size of a value in memory.
pub(super) trait Size {
    fn bytes(&self) -> u64;
}

impl Size for MediaKv {
    fn bytes(&self) -> u64 {
        MediaKv::bytes(self) as u64
    }
}

#[derive(Clone)]
struct ByteWeighter;

impl<V: Size> Weighter<TensorId, Arc<V>> for ByteWeighter {
    fn weight(&self, _: &TensorId, value: &Arc<V>) -> u64 {
        value.bytes()
    }
}

/// Pins the entries that a running sequence holds.
struct KeepUsed;

impl<V> Lifecycle<TensorId, Arc<V>> for KeepUsed {
    type RequestState = ();

    fn is_pinned(&self, _: &TensorId, value: &Arc<V>) -> bool {
        Arc::strong_count(value) > 1
    }
}

impl MediaKvCache {
    /// Returns the K/V of a medium, cached or projected.
    pub(super) fn get(&mut self, pipeline: &Pipeline, medium: &Medium) -> Result<Arc<MediaKv>> {
        self.get_or_insert(medium.visual_tokens.id(), || pipeline.project_media(medium))
    }

    /// Adds the K/V of a medium.
    pub(super) fn insert(&mut self, medium: &Medium, kv: Arc<MediaKv>) {
        self.entries.insert(medium.visual_tokens.id(), kv);
    }
}

impl<V: Size> MediaKvCache<V> {
    pub(super) fn new(budget: u64) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(budget)
            .estimated_items_capacity(ESTIMATED_ENTRIES)
            .build()
            .expect("both capacities are set");
        let hash = DefaultHashBuilder::default();
        Self { entries: Cache::with_options(options, ByteWeighter, hash, KeepUsed) }
    }

    fn get_or_insert(&mut self, id: TensorId, project: impl FnOnce() -> Result<Arc<V>>) -> Result<Arc<V>> {
        if let Some(kv) = self.entries.get(&id) {
            return Ok(kv.clone());
        }
        let kv = project()?;
        self.entries.insert(id, kv.clone());
        Ok(kv)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    struct Bytes(u64);

    impl Size for Bytes {
        fn bytes(&self) -> u64 {
            self.0
        }
    }

    /// Returns the entry of a new medium of `bytes` bytes.
    fn add(cache: &mut MediaKvCache<Bytes>, bytes: u64) -> (TensorId, Arc<Bytes>) {
        let id = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap().id();
        (id, cache.get_or_insert(id, || Ok(Arc::new(Bytes(bytes)))).unwrap())
    }

    /// Whether the cache has the entry.
    fn has(cache: &mut MediaKvCache<Bytes>, id: TensorId) -> bool {
        cache.get_or_insert(id, || Err(flamingo::Error::OverBudget("projected again".into()))).is_ok()
    }

    #[test]
    fn projects_a_cached_medium_once() {
        let mut cache = MediaKvCache::new(100);
        let (id, first) = add(&mut cache, 30);
        drop(first);
        assert!(has(&mut cache, id));
        assert_eq!(cache.bytes(), 30);
    }

    #[test]
    fn stays_within_budget_and_keeps_used_entries() {
        let mut cache = MediaKvCache::new(100);
        let used = [add(&mut cache, 30), add(&mut cache, 20)];
        for _ in 0..50 {
            add(&mut cache, 30);
            assert!(cache.bytes() <= 100, "{} bytes", cache.bytes());
        }
        assert!(used.iter().all(|(id, _)| has(&mut cache, *id)));
        let ids = used.map(|(id, _)| id);
        (0..50).for_each(|_| drop(add(&mut cache, 30)));
        assert!(!ids.iter().any(|id| has(&mut cache, *id)), "entries without users are evicted");
    }

    #[test]
    fn used_entries_may_exceed_the_budget() {
        let mut cache = MediaKvCache::new(100);
        let (id, large) = add(&mut cache, 150);
        assert!(has(&mut cache, id));
        drop(large);
        add(&mut cache, 10);
        assert!(!has(&mut cache, id) && cache.bytes() <= 100, "{} bytes", cache.bytes());
    }
}
