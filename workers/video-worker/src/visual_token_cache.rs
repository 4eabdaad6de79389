//! Cache of visual tokens by video content: later requests about the same video need neither decoding nor encoding.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flamingo::video::{VideoInfo, Warning};
use jobs::store::Store;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::analysis::AnalysisRequest;
use crate::encoded_video::{EncodedVideo, EncodedWindow, VisualTokens};

/// Part of every key: entries of an incompatible build are not found.
const FORMAT_VERSION: &str = "flamingo.seen/1";
/// Largest entry in the store, in bytes.
const MAX_ENTRY_BYTES: u64 = 64 << 20;
/// Bytes per read.
const CHUNK: usize = 1 << 20;
/// Folder below the store.
const FOLDER: &str = "visual-tokens";
/// Number of video versions with a known content hash.
const KNOWN_VERSIONS: usize = 100_000;
/// Estimated number of videos in memory.
const ESTIMATED_ENTRIES: usize = 1000;

/// URL and ETag of a video.
pub type Version = (String, String);

/// Hash and size of the bytes of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub sha256: String,
    pub bytes: u64,
}

/// Hashes a file.
///
/// # Errors
/// The file cannot be read.
pub fn content_of(path: &Path) -> io::Result<Content> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let (mut part, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(Content { sha256: hex(&hash.finalize()), bytes }),
            n => {
                hash.update(&part[..n]);
                bytes += n as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

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
    /// Names the model and its weights.
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

    /// Returns the key of all inputs that visual tokens depend on.
    pub fn key(&self, content: &Content, request: &AnalysisRequest) -> String {
        let AnalysisRequest { sampling, window, max_frames, .. } = request;
        let all =
            serde_json::json!([FORMAT_VERSION, self.revision, content.sha256, sampling, window, max_frames]);
        hex(&Sha256::digest(all.to_string()))
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

/// Metadata of an entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    info: VideoInfo,
    warnings: Vec<Warning>,
    windows: Vec<WindowTimes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTimes {
    start: f64,
    end: f64,
    frame_times: Vec<f64>,
}

const METADATA: &str = "about";
const TOKENS: &str = "visual_tokens";

/// Serializes an entry: one tensor (windows, q, d) of f32, with the metadata as JSON in the header.
fn write(video: &EncodedVideo) -> Result<Bytes, String> {
    let times =
        |w: &EncodedWindow| WindowTimes { start: w.start, end: w.end, frame_times: w.frame_times.clone() };
    let metadata = Metadata {
        info: video.info.clone(),
        warnings: video.warnings.clone(),
        windows: video.windows.iter().map(times).collect(),
    };
    let metadata = serde_json::to_string(&metadata).map_err(|e| e.to_string())?;
    let (q, d) = video.windows.first().map_or((0, 0), |w| w.tokens.shape);
    let values = video.windows.iter().flat_map(|w| &w.tokens.values);
    let bytes: Vec<u8> = values.flat_map(|v| v.to_le_bytes()).collect();
    let view =
        TensorView::new(Dtype::F32, vec![video.windows.len(), q, d], &bytes).map_err(|e| e.to_string())?;
    let header = HashMap::from([(METADATA.to_owned(), metadata)]);
    safetensors::serialize([(TOKENS, view)], Some(header)).map(Bytes::from).map_err(|e| e.to_string())
}

/// Parses an entry. Untrusted: others may be able to write to the store.
fn parse(bytes: &[u8]) -> Result<EncodedVideo, String> {
    let wrong = |e: safetensors::SafeTensorError| e.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let metadata = header.metadata().as_ref().and_then(|m| m.get(METADATA)).ok_or("no metadata")?;
    let metadata: Metadata = serde_json::from_str(metadata).map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let tokens = tensors.tensor(TOKENS).map_err(wrong)?;
    let &[n, q, d] = tokens.shape() else { return Err(format!("shape {:?}", tokens.shape())) };
    if tokens.dtype() != Dtype::F32 || n != metadata.windows.len() || n * q * d == 0 {
        return Err(format!(
            "{} windows, but tokens of {:?} {:?}",
            metadata.windows.len(),
            tokens.dtype(),
            [n, q, d]
        ));
    }
    let values: Vec<f32> =
        tokens.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err("a value is not finite".into());
    }
    let windows = metadata.windows.into_iter().zip(values.chunks_exact(q * d));
    let windows = windows.map(|(WindowTimes { start, end, frame_times }, values)| EncodedWindow {
        start,
        end,
        frame_times,
        tokens: VisualTokens { shape: (q, d), values: values.to_vec() },
    });
    Ok(EncodedVideo { info: metadata.info, warnings: metadata.warnings, windows: windows.collect() })
}

#[cfg(test)]
mod tests {
    use flamingo::generate::Generation;
    use flamingo::video::{FrameSampling, Orientation, VideoLimits};
    use jobs::store::StoreSettings;

    use super::*;
    use crate::decoder::{ProcessLimits, StopFlag};
    use crate::progress::ProgressCounter;

    fn example(windows: usize) -> EncodedVideo {
        let info = VideoInfo {
            container: "mov".into(),
            codec: "h264".into(),
            width: 320,
            height: 240,
            orientation: Orientation::default(),
            duration: 7.5,
            frames: 75,
            average_fps: 10.0,
            start_pts: -0.1,
        };
        let window = |i: usize| EncodedWindow {
            start: i as f64,
            end: i as f64 + 1.0,
            frame_times: vec![i as f64, i as f64 + 0.1 + 0.2],
            tokens: VisualTokens { shape: (2, 3), values: (0..6).map(|v| (v + i) as f32 / 7.0).collect() },
        };
        EncodedVideo {
            info,
            warnings: vec![Warning::MissingPts],
            windows: (0..windows).map(window).collect(),
        }
    }

    fn request() -> AnalysisRequest {
        AnalysisRequest {
            tasks: vec![],
            sampling: FrameSampling::fps(1.0),
            window: None,
            max_frames: 64,
            generation: Generation::default(),
            limits: VideoLimits::default(),
            process: ProcessLimits::default(),
            job: String::new(),
            urgent: false,
            stop: StopFlag::default(),
            progress: ProgressCounter::default(),
        }
    }

    #[test]
    fn entry_round_trips() {
        for windows in [1, 5] {
            let video = example(windows);
            assert_eq!(parse(&write(&video).unwrap()).unwrap(), video);
        }
        let good = write(&example(2)).unwrap();
        for broken in [&good[..0], &good[..40], &good[..good.len() - 1], b"not safetensors"] {
            assert!(parse(broken).is_err());
        }
        let mut invalid = example(2);
        invalid.windows[1].tokens.values[3] = f32::NAN;
        assert_eq!(parse(&write(&invalid).unwrap()).unwrap_err(), "a value is not finite");
        assert!(parse(&write(&example(0)).unwrap_or_default()).is_err(), "no window");
    }

    #[test]
    fn key_covers_all_inputs_of_visual_tokens_only() {
        let cache = |revision: &str| VisualTokenCache::new(revision.into(), 1 << 20, None);
        let content = |text: &str| Content { sha256: text.into(), bytes: 1 };
        let base = cache("model").key(&content("a"), &request());
        let other_question = AnalysisRequest { tasks: vec![flamingo::Task::Caption {}], ..request() };
        assert_eq!(cache("model").key(&content("a"), &other_question), base);
        let others = [
            cache("model 2").key(&content("a"), &request()),
            cache("model").key(&content("b"), &request()),
            cache("model").key(&content("a"), &AnalysisRequest { window: Some(1.0), ..request() }),
            cache("model").key(&content("a"), &AnalysisRequest { max_frames: 9, ..request() }),
            cache("model")
                .key(&content("a"), &AnalysisRequest { sampling: FrameSampling::fps(2.0), ..request() }),
        ];
        assert!(others.iter().all(|key| *key != base));
    }

    #[tokio::test]
    async fn finds_entries_in_memory_and_store() {
        let store = Store::open("memory://", &StoreSettings::default()).unwrap();
        let first = VisualTokenCache::new("m".into(), 1 << 20, Some(store.clone()));
        assert_eq!(first.get("key").await, None);
        first.put("key", example(3)).await;
        assert_eq!(*first.get("key").await.unwrap(), example(3));
        let second = VisualTokenCache::new("m".into(), 1 << 20, Some(store.clone()));
        assert_eq!(*second.get("key").await.unwrap(), example(3), "another worker");
        store.put(&store_key("invalid"), Bytes::from_static(b"not an entry")).await.unwrap();
        assert_eq!(second.get("invalid").await, None);
        let off = VisualTokenCache::new("m".into(), 0, None);
        off.put("key", example(1)).await;
        assert!(!off.is_enabled() && off.get("key").await.is_none());
    }

    #[test]
    fn memory_stays_within_budget() {
        let one = example(1).bytes() as u64;
        let cache = VisualTokenCache::new("m".into(), one * 10, None);
        for i in 0..100 {
            cache.insert(&format!("{i}"), &Arc::new(example(1)));
        }
        let memory = cache.memory.as_ref().unwrap();
        assert!(
            memory.weight() <= one * 10 && memory.len() >= 5,
            "{} videos, {} bytes",
            memory.len(),
            memory.weight()
        );
    }
}
