//! Index of videos: one vector per window, and its file.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomic;

/// Greatest size of a file in bytes.
const MAX_BYTES: u64 = 4 << 30;
const VECTORS: &str = "vectors";
const ENTRIES: &str = "entries";
const REVISION: &str = "revision";

/// Window of a video in an index.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// Name of the video.
    pub name: String,
    /// Version of the file: an entry of another version is out of date.
    pub version: String,
    /// Start of the window in seconds.
    pub start: f64,
    /// End of the window in seconds.
    pub end: f64,
}

/// Windows of videos with a vector each, all of one model and sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoIndex {
    /// Text that names everything that the vectors depend on besides the videos.
    revision: String,
    entries: Vec<(IndexEntry, Vec<f32>)>,
}

/// Reason why a file is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is no index.
    #[error("the file is no index: {0}")]
    Malformed(String),
}

impl VideoIndex {
    /// Creates an empty index.
    pub fn new(revision: String) -> Self {
        Self { revision, entries: Vec::new() }
    }

    /// Reads a file. An index of another revision is empty, because its vectors cannot be compared with those of this one.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is no index.
    pub fn read(path: &Path, revision: String) -> Result<Self, IndexError> {
        let malformed = |reason: String| IndexError::Malformed(reason);
        let size = fs::metadata(path)?.len();
        if size > MAX_BYTES {
            return Err(malformed(format!("{size} bytes are more than {MAX_BYTES}")));
        }
        let bytes = fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| malformed(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| metadata.get(key).ok_or_else(|| malformed(format!("it has no `{key}`")));
        if *text(REVISION)? != revision {
            return Ok(Self::new(revision));
        }
        let entries: Vec<IndexEntry> =
            serde_json::from_str(text(ENTRIES)?).map_err(|e| malformed(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let vectors = tensors.tensor(VECTORS).map_err(|e| malformed(e.to_string()))?;
        let rows = match (vectors.dtype(), vectors.shape()) {
            (Dtype::F32, &[n, width]) if n == entries.len() && width > 0 => vectors.data().chunks(4 * width),
            (dtype, shape) => {
                let entries = entries.len();
                return Err(malformed(format!("{entries} entries have vectors of {dtype:?} {shape:?}")));
            }
        };
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let vectors = rows.map(|row| row.chunks_exact(4).map(number).collect());
        Ok(Self { revision, entries: entries.into_iter().zip(vectors).collect() })
    }

    /// Writes the index to a file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        let (entries, vectors): (Vec<&IndexEntry>, Vec<&Vec<f32>>) =
            self.entries.iter().map(|(entry, vector)| (entry, vector)).unzip();
        let malformed = |e: &dyn std::fmt::Display| IndexError::Malformed(e.to_string());
        let names = serde_json::to_string(&entries).map_err(|e| malformed(&e))?;
        let width = vectors.first().map_or(1, |vector| vector.len());
        let data: Vec<u8> = vectors.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let view =
            TensorView::new(Dtype::F32, vec![entries.len(), width], &data).map_err(|e| malformed(&e))?;
        let metadata = [(REVISION, self.revision.clone()), (ENTRIES, names)];
        let metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_string(), value)).into();
        let bytes = serialize([(VECTORS, view)], Some(metadata)).map_err(|e| malformed(&e))?;
        Ok(write_atomic(path, &bytes)?)
    }

    /// Returns the number of windows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there is no window.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tells whether the index has this version of a video.
    pub fn has(&self, name: &str, version: &str) -> bool {
        self.entries.iter().any(|(entry, _)| entry.name == name && entry.version == version)
    }

    /// Replaces all windows of a video by `windows`, with unit vectors (width).
    pub fn replace(&mut self, name: &str, windows: Vec<(IndexEntry, Vec<f32>)>) {
        self.entries.retain(|(entry, _)| entry.name != name);
        self.entries.extend(windows);
    }

    /// Returns up to `count` windows by their cosine to a unit vector (width), the most similar first; of equal ones, the first
    /// of the index. Every window is compared.
    pub fn nearest(&self, query: &[f32], count: usize) -> Vec<(f32, &IndexEntry)> {
        let cosine = |vector: &[f32]| vector.iter().zip(query).map(|(x, y)| x * y).sum::<f32>();
        let mut found: Vec<(f32, &IndexEntry)> =
            self.entries.iter().map(|(entry, vector)| (cosine(vector), entry)).collect();
        found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        found.truncate(count);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, start: f64) -> IndexEntry {
        IndexEntry { name: name.into(), version: "1".into(), start, end: start + 1.0 }
    }

    fn index() -> VideoIndex {
        let mut index = VideoIndex::new("model".into());
        index.replace("a", vec![(entry("a", 0.0), vec![1.0, 0.0]), (entry("a", 1.0), vec![0.6, 0.8])]);
        index.replace("b", vec![(entry("b", 0.0), vec![0.0, 1.0])]);
        index
    }

    #[test]
    fn the_most_similar_window_is_first() {
        let index = index();
        let found = |query: &[f32], count| -> Vec<(String, f64)> {
            index.nearest(query, count).iter().map(|(_, entry)| (entry.name.clone(), entry.start)).collect()
        };
        assert_eq!(found(&[0.0, 1.0], 2), [("b".into(), 0.0), ("a".into(), 1.0)]);
        assert_eq!(found(&[1.0, 0.0], 9).len(), 3);
        assert!((index.nearest(&[0.8, 0.6], 1)[0].0 - 0.96).abs() < 1e-6);
    }

    #[test]
    fn file_keeps_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("videos.index");
        let mut index = index();
        index.write(&path).unwrap();
        assert_eq!(VideoIndex::read(&path, "model".into()).unwrap(), index);
        assert!(VideoIndex::read(&path, "another".into()).unwrap().is_empty());
        assert!(index.has("a", "1") && !index.has("a", "2") && !index.has("c", "1"));
        index.replace("a", Vec::new());
        assert_eq!(index.len(), 1);
        VideoIndex::new("model".into()).write(&path).unwrap();
        assert!(VideoIndex::read(&path, "model".into()).unwrap().is_empty());
    }

    #[test]
    fn files_that_are_no_index_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("videos.index");
        index().write(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            VideoIndex::read(&path, "model".into())
        };
        for n in [0, 7, 40, good.len() - 1] {
            assert!(matches!(read(&good[..n]), Err(IndexError::Malformed(_))), "{n} bytes");
        }
        let text = String::from_utf8_lossy(&good).into_owned();
        let fewer = text.replace("\\\"start\\\":1.0", "\\\"begin\\\":1.0");
        assert_ne!(fewer, text);
        assert!(matches!(read(fewer.as_bytes()), Err(IndexError::Malformed(_))));
    }
}
