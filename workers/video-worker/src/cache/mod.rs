//! Cache of visual tokens by video content: later requests about the same video need neither decoding nor encoding.

use std::sync::Arc;

use inference::encoded_video::EncodedVideo;
use jobs::store::Store;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

mod format;
mod key;

#[cfg(test)]
mod tests;

use format::{parse, write};
pub use key::{Content, content_of};

/// Largest entry in the store, in bytes.
const MAX_ENTRY_BYTES: u64 = 64 << 20;

/// Folder below the store.
const FOLDER: &str = "visual-tokens";

/// Number of video versions with a known content hash.
const KNOWN_VERSIONS: usize = 100_000;

/// Estimated number of videos in memory.
const ESTIMATED_ENTRIES: usize = 1000;

/// URL and ETag of a video.
pub type Version = (String, String);

/// Weighs an entry by its bytes.
#[derive(Clone)]
struct ByteWeighter;

impl Weighter<String, Arc<EncodedVideo>> for ByteWeighter {
    fn weight(&self, _: &String, video: &Arc<EncodedVideo>) -> u64 {
        video.bytes() as u64
    }
}

/// Visual tokens of videos, in memory and optionally in a store that workers share. Memory has a byte budget; the least
/// recently used entries are evicted first.
pub struct VisualTokenCache {
    /// Names all that visual tokens depend on but the video and its sampling.
    revision: String,
    memory: Option<Cache<String, Arc<EncodedVideo>, ByteWeighter>>,
    store: Option<Store>,
    /// Content hashes by version, so that a known version need not be downloaded.
    contents: Cache<Version, Arc<Content>>,
}

impl VisualTokenCache {
    /// Returns a cache with `bytes` of memory; 0 and no store disable it.
    pub fn new(revision: String, bytes: u64, store: Option<Store>) -> Self {
        // One shard: an entry larger than a shard would be rejected.
        let options = OptionsBuilder::new()
            .shards(1)
            .weight_capacity(bytes)
            .estimated_items_capacity(ESTIMATED_ENTRIES)
            .build();
        let memory = options.ok().filter(|_| bytes > 0).map(|options| {
            Cache::with_options(
                options,
                ByteWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            )
        });
        Self { revision, memory, store, contents: Cache::new(KNOWN_VERSIONS) }
    }

    /// Returns whether anything is cached.
    pub fn is_enabled(&self) -> bool {
        self.memory.is_some() || self.store.is_some()
    }

    /// Returns the content hash of a version, if known.
    pub fn content(&self, version: &Version) -> Option<Arc<Content>> {
        self.contents.get(version)
    }

    /// Records the content hash of a version.
    pub fn remember(&self, version: Version, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        self.contents.insert(version, content.clone());
        content
    }

    /// Looks up an entry. An unavailable store or an invalid entry is a miss.
    pub async fn get(&self, key: &str) -> Option<Arc<EncodedVideo>> {
        if let Some(video) = self.memory.as_ref().and_then(|memory| memory.get(key)) {
            return Some(video);
        }
        let bytes = match self.store.as_ref()?.get(&store_key(key), MAX_ENTRY_BYTES).await {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(%error, "cannot read cached visual tokens");
                return None;
            }
        };
        let video = match parse(&bytes) {
            Ok(video) => Arc::new(video),
            Err(error) => {
                tracing::warn!(key, error, "cached visual tokens are invalid");
                return None;
            }
        };
        self.insert(key, &video);
        Some(video)
    }

    /// Adds an entry.
    pub async fn put(&self, key: &str, video: EncodedVideo) {
        let video = Arc::new(video);
        self.insert(key, &video);
        let Some(store) = &self.store else { return };
        let put = match write(&video) {
            Ok(bytes) if bytes.len() as u64 <= MAX_ENTRY_BYTES => store.put(&store_key(key), bytes).await,
            _ => return,
        };
        if let Err(error) = put {
            tracing::warn!(%error, "cannot store visual tokens");
        }
    }

    fn insert(&self, key: &str, video: &Arc<EncodedVideo>) {
        if let Some(memory) = &self.memory {
            memory.insert(key.to_owned(), video.clone());
        }
    }
}

fn store_key(key: &str) -> String {
    format!("{FOLDER}/{key}.safetensors")
}
