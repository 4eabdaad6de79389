//! What was seen of a video, kept by its content: a later question about it pays for the language model only.

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

use crate::seen::{SeenVideo, SeenWindow, VisualTokens};
use crate::understand::Request;

/// Part of every key: what was kept by an incompatible build is not found.
const VERSION: &str = "flamingo.seen/1";
/// Bytes of what is kept of one video in the store.
const LONGEST: u64 = 64 << 20;
/// Bytes that are read at once.
const PART: usize = 1 << 20;
/// Where it stands below the store.
const FOLDER: &str = "visual-tokens";
/// Names of videos whose content is known.
const NAMES: usize = 100_000;
/// Videos that are expected in memory; only a guess.
const ITEMS: usize = 1000;

/// Which version of which video, as its bucket names it.
pub type Version = (String, String);

/// The bytes of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub sha256: String,
    pub bytes: u64,
}

/// Reads a file to its end.
///
/// # Errors
/// It cannot be read.
pub fn content_of(path: &Path) -> io::Result<Content> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let (mut part, mut bytes) = (vec![0; PART], 0);
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

/// What an entry counts for.
#[derive(Clone)]
struct Bytewise;

impl Weighter<String, Arc<SeenVideo>> for Bytewise {
    fn weight(&self, _: &String, seen: &Arc<SeenVideo>) -> u64 {
        seen.bytes() as u64
    }
}

/// Visual tokens of videos, in memory and, if there is one, in a store that workers share. Least recently used first, memory
/// is given back when its budget is reached.
pub struct SeenCache {
    /// Says which model saw them, and how exactly.
    revision: String,
    memory: Option<Cache<String, Arc<SeenVideo>, Bytewise>>,
    store: Option<Store>,
    /// So that a video whose version is known need not be fetched.
    contents: Cache<Version, Arc<Content>>,
}

impl SeenCache {
    /// With `bytes` of memory; with 0 and no store nothing is kept.
    pub fn new(revision: String, bytes: u64, store: Option<Store>) -> Self {
        // One shard: a video that is larger than a shard is not kept.
        let options =
            OptionsBuilder::new().shards(1).weight_capacity(bytes).estimated_items_capacity(ITEMS).build();
        let memory = options.ok().filter(|_| bytes > 0).map(|options| {
            Cache::with_options(options, Bytewise, DefaultHashBuilder::default(), DefaultLifecycle::default())
        });
        Self { revision, memory, store, contents: Cache::new(NAMES) }
    }

    pub fn is_on(&self) -> bool {
        self.memory.is_some() || self.store.is_some()
    }

    /// What this version of a video contains, if it was here before.
    pub fn content(&self, version: &Version) -> Option<Arc<Content>> {
        self.contents.get(version)
    }

    pub fn remember(&self, version: Version, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        self.contents.insert(version, content.clone());
        content
    }

    /// What is seen of these bytes depends on these things and no others.
    pub fn key(&self, content: &Content, request: &Request) -> String {
        let Request { sampling, window, max_frames, .. } = request;
        let all = serde_json::json!([VERSION, self.revision, content.sha256, sampling, window, max_frames]);
        hex(&Sha256::digest(all.to_string()))
    }

    /// What was seen before. A store that is away, or holds something else, has seen nothing.
    pub async fn get(&self, key: &str) -> Option<Arc<SeenVideo>> {
        if let Some(seen) = self.memory.as_ref().and_then(|memory| memory.get(key)) {
            return Some(seen);
        }
        let bytes = match self.store.as_ref()?.get(&place(key), LONGEST).await {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(%error, "visual tokens are computed anew");
                return None;
            }
        };
        let seen = match parse(&bytes) {
            Ok(seen) => Arc::new(seen),
            Err(error) => {
                tracing::warn!(key, error, "visual tokens in the store are none; they are computed anew");
                return None;
            }
        };
        self.keep(key, &seen);
        Some(seen)
    }

    pub async fn put(&self, key: &str, seen: SeenVideo) {
        let seen = Arc::new(seen);
        self.keep(key, &seen);
        let Some(store) = &self.store else { return };
        let put = match write(&seen) {
            Ok(bytes) if bytes.len() as u64 <= LONGEST => store.put(&place(key), bytes).await,
            _ => return,
        };
        if let Err(error) = put {
            tracing::warn!(%error, "visual tokens were not kept");
        }
    }

    fn keep(&self, key: &str, seen: &Arc<SeenVideo>) {
        if let Some(memory) = &self.memory {
            memory.insert(key.to_owned(), seen.clone());
        }
    }
}

fn place(key: &str) -> String {
    format!("{FOLDER}/{key}.safetensors")
}

/// All but the numbers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    info: VideoInfo,
    warnings: Vec<Warning>,
    windows: Vec<Span>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    start: f64,
    end: f64,
    frame_times: Vec<f64>,
}

const ABOUT: &str = "about";
const TOKENS: &str = "visual_tokens";

/// One tensor (windows, q, d) of f32, and the rest as JSON beside it.
fn write(seen: &SeenVideo) -> Result<Bytes, String> {
    let span = |w: &SeenWindow| Span { start: w.start, end: w.end, frame_times: w.frame_times.clone() };
    let about = About {
        info: seen.info.clone(),
        warnings: seen.warnings.clone(),
        windows: seen.windows.iter().map(span).collect(),
    };
    let about = serde_json::to_string(&about).map_err(|e| e.to_string())?;
    let (q, d) = seen.windows.first().map_or((0, 0), |w| w.tokens.shape);
    let values = seen.windows.iter().flat_map(|w| &w.tokens.values);
    let bytes: Vec<u8> = values.flat_map(|v| v.to_le_bytes()).collect();
    let view =
        TensorView::new(Dtype::F32, vec![seen.windows.len(), q, d], &bytes).map_err(|e| e.to_string())?;
    let header = HashMap::from([(ABOUT.to_owned(), about)]);
    safetensors::serialize([(TOKENS, view)], Some(header)).map(Bytes::from).map_err(|e| e.to_string())
}

/// Hostile until it is read: the store may be open to others.
fn parse(bytes: &[u8]) -> Result<SeenVideo, String> {
    let wrong = |e: safetensors::SafeTensorError| e.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let about = header.metadata().as_ref().and_then(|m| m.get(ABOUT)).ok_or("nothing is said about it")?;
    let about: About = serde_json::from_str(about).map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let tokens = tensors.tensor(TOKENS).map_err(wrong)?;
    let &[n, q, d] = tokens.shape() else { return Err(format!("a shape of {:?}", tokens.shape())) };
    if tokens.dtype() != Dtype::F32 || n != about.windows.len() || n * q * d == 0 {
        return Err(format!(
            "{} windows, and tokens of {:?} {:?}",
            about.windows.len(),
            tokens.dtype(),
            [n, q, d]
        ));
    }
    let values: Vec<f32> =
        tokens.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err("a token that is no number".into());
    }
    let windows = about.windows.into_iter().zip(values.chunks_exact(q * d));
    let windows = windows.map(|(Span { start, end, frame_times }, values)| SeenWindow {
        start,
        end,
        frame_times,
        tokens: VisualTokens { shape: (q, d), values: values.to_vec() },
    });
    Ok(SeenVideo { info: about.info, warnings: about.warnings, windows: windows.collect() })
}

#[cfg(test)]
mod tests {
    use flamingo::generate::Generation;
    use flamingo::video::{FrameSampling, Orientation, VideoLimits};
    use jobs::store::StoreSettings;

    use super::*;
    use crate::decoder::{ProcessLimits, StopFlag};
    use crate::progress::Tally;

    fn seen(windows: usize) -> SeenVideo {
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
        let window = |i: usize| SeenWindow {
            start: i as f64,
            end: i as f64 + 1.0,
            frame_times: vec![i as f64, i as f64 + 0.1 + 0.2],
            tokens: VisualTokens { shape: (2, 3), values: (0..6).map(|v| (v + i) as f32 / 7.0).collect() },
        };
        SeenVideo { info, warnings: vec![Warning::MissingPts], windows: (0..windows).map(window).collect() }
    }

    fn request() -> Request {
        Request {
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
            tally: Tally::default(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for windows in [1, 5] {
            let seen = seen(windows);
            assert_eq!(parse(&write(&seen).unwrap()).unwrap(), seen);
        }
        let good = write(&seen(2)).unwrap();
        for broken in [&good[..0], &good[..40], &good[..good.len() - 1], b"no tensors at all"] {
            assert!(parse(broken).is_err());
        }
        let mut odd = seen(2);
        odd.windows[1].tokens.values[3] = f32::NAN;
        assert_eq!(parse(&write(&odd).unwrap()).unwrap_err(), "a token that is no number");
        assert!(parse(&write(&seen(0)).unwrap_or_default()).is_err(), "nothing was seen");
    }

    #[test]
    fn a_key_is_of_everything_that_matters_and_nothing_else() {
        let cache = |revision: &str| SeenCache::new(revision.into(), 1 << 20, None);
        let content = |text: &str| Content { sha256: text.into(), bytes: 1 };
        let base = cache("model").key(&content("a"), &request());
        let other_question = Request { tasks: vec![flamingo::Task::Caption {}], ..request() };
        assert_eq!(cache("model").key(&content("a"), &other_question), base);
        let others = [
            cache("model 2").key(&content("a"), &request()),
            cache("model").key(&content("b"), &request()),
            cache("model").key(&content("a"), &Request { window: Some(1.0), ..request() }),
            cache("model").key(&content("a"), &Request { max_frames: 9, ..request() }),
            cache("model").key(&content("a"), &Request { sampling: FrameSampling::fps(2.0), ..request() }),
        ];
        assert!(others.iter().all(|key| *key != base));
    }

    #[tokio::test]
    async fn memory_and_store_are_found_again() {
        let store = Store::open("memory://", &StoreSettings::default()).unwrap();
        let first = SeenCache::new("m".into(), 1 << 20, Some(store.clone()));
        assert_eq!(first.get("key").await, None);
        first.put("key", seen(3)).await;
        assert_eq!(*first.get("key").await.unwrap(), seen(3));
        let second = SeenCache::new("m".into(), 1 << 20, Some(store.clone()));
        assert_eq!(*second.get("key").await.unwrap(), seen(3), "another worker");
        store.put(&place("spoiled"), Bytes::from_static(b"nothing")).await.unwrap();
        assert_eq!(second.get("spoiled").await, None);
        let off = SeenCache::new("m".into(), 0, None);
        off.put("key", seen(1)).await;
        assert!(!off.is_on() && off.get("key").await.is_none());
    }

    #[test]
    fn memory_has_a_budget() {
        let one = seen(1).bytes() as u64;
        let cache = SeenCache::new("m".into(), one * 10, None);
        for i in 0..100 {
            cache.keep(&format!("{i}"), &Arc::new(seen(1)));
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
