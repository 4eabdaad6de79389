//! Index of videos: one vector per window, and its file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomic;

/// Greatest size of a file in bytes.
const MAX_BYTES: u64 = 8 << 30;
const VECTORS: &str = "vectors";
const ENTRIES: &str = "entries";
const REVISION: &str = "revision";
/// Part of every revision: an index of another layout is empty. Layout 2 has the entries beside the vectors, not in the header, which
/// has room for less than a million of them.
const LAYOUT: &str = "flamingo.index/2";

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

/// Windows of videos with a unit vector each, all of one model and sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoIndex {
    /// Text that names everything that the vectors depend on besides the videos.
    revision: String,
    entries: Vec<IndexEntry>,
    /// Vectors of the entries (n, width).
    vectors: Vec<f32>,
    width: usize,
    /// Version of each video by its name.
    versions: HashMap<String, String>,
}

/// Window with its unit vector (width).
pub type IndexedWindow = (IndexEntry, Vec<f32>);

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
        Self { revision, entries: Vec::new(), vectors: Vec::new(), width: 0, versions: HashMap::new() }
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
        let found = metadata.get(REVISION).ok_or_else(|| malformed(format!("it has no `{REVISION}`")))?;
        if *found != with_layout(&revision) {
            return Ok(Self::new(revision));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let tensor = |name| tensors.tensor(name).map_err(|e| malformed(e.to_string()));
        let entries: Vec<IndexEntry> =
            serde_json::from_slice(tensor(ENTRIES)?.data()).map_err(|e| malformed(e.to_string()))?;
        let view = tensor(VECTORS)?;
        let width = match (view.dtype(), view.shape()) {
            (Dtype::F32, &[n, width]) if n == entries.len() && width > 0 => width,
            (dtype, shape) => {
                let entries = entries.len();
                return Err(malformed(format!("{entries} entries have vectors of {dtype:?} {shape:?}")));
            }
        };
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let vectors = view.data().chunks_exact(4).map(number).collect();
        let version = |entry: &IndexEntry| (entry.name.clone(), entry.version.clone());
        let versions = entries.iter().map(version).collect();
        Ok(Self { revision, entries, vectors, width, versions })
    }

    /// Writes the index to a file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        let malformed = |e: &dyn std::fmt::Display| IndexError::Malformed(e.to_string());
        let entries = serde_json::to_vec(&self.entries).map_err(|e| malformed(&e))?;
        let vectors: Vec<u8> = self.vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| malformed(&e));
        let tensors = [
            (ENTRIES, view(Dtype::U8, vec![entries.len()], &entries)?),
            (VECTORS, view(Dtype::F32, vec![self.entries.len(), self.width.max(1)], &vectors)?),
        ];
        let metadata = HashMap::from([(REVISION.to_string(), with_layout(&self.revision))]);
        let bytes = serialize(tensors, Some(metadata)).map_err(|e| malformed(&e))?;
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
        self.versions.get(name).is_some_and(|known| known == version)
    }

    /// Adds windows of videos, and removes the earlier windows of these videos.
    ///
    /// # Errors
    /// A vector has another width than the others.
    pub fn add(&mut self, windows: Vec<IndexedWindow>) -> Result<(), IndexError> {
        let Some((_, first)) = windows.first() else { return Ok(()) };
        let width = if self.is_empty() { first.len() } else { self.width };
        if let Some((entry, vector)) = windows.iter().find(|(_, vector)| vector.len() != width || width == 0)
        {
            let text = format!("a vector of {} has {} numbers, not {width}", entry.name, vector.len());
            return Err(IndexError::Malformed(text));
        }
        self.width = width;
        let names: HashSet<&str> = windows.iter().map(|(entry, _)| entry.name.as_str()).collect();
        if names.iter().any(|name| self.versions.contains_key(*name)) {
            self.remove(&names);
        }
        for (entry, vector) in windows {
            self.versions.insert(entry.name.clone(), entry.version.clone());
            self.entries.push(entry);
            self.vectors.extend(vector);
        }
        Ok(())
    }

    fn remove(&mut self, names: &HashSet<&str>) {
        let kept = self.entries.iter().map(|entry| !names.contains(entry.name.as_str()));
        let kept: Vec<bool> = kept.collect();
        let rows = self.vectors.chunks_exact(self.width).zip(&kept);
        self.vectors = rows.filter(|(_, kept)| **kept).flat_map(|(row, _)| row).copied().collect();
        let mut kept = kept.into_iter();
        self.entries.retain(|_| kept.next().unwrap_or(true));
        self.versions.retain(|name, _| !names.contains(name.as_str()));
    }

    /// Returns up to `count` windows by their cosine to a unit vector (width), the most similar first; of equal ones, the first
    /// of the index. Every window is compared.
    pub fn nearest(&self, query: &[f32], count: usize) -> Vec<(f32, &IndexEntry)> {
        let rows = self.vectors.par_chunks_exact(self.width.max(1)).with_min_len(ROWS_AT_ONCE);
        let mut found: Vec<(f32, usize)> =
            rows.map(|row| dot(row, query)).enumerate().map(|(i, cosine)| (cosine, i)).collect();
        let order = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count < found.len() {
            found.select_nth_unstable_by(count, order);
            found.truncate(count);
        }
        found.sort_unstable_by(order);
        found.into_iter().map(|(cosine, i)| (cosine, &self.entries[i])).collect()
    }
}

/// Vectors that a thread compares at least.
const ROWS_AT_ONCE: usize = 1024;

/// Returns the revision as a file names it.
fn with_layout(revision: &str) -> String {
    format!("{LAYOUT} {revision}")
}

/// Returns the product of two vectors, with as many partial sums as the compiler needs for vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, start: f64) -> IndexEntry {
        IndexEntry { name: name.into(), version: "1".into(), start, end: start + 1.0 }
    }

    fn index() -> VideoIndex {
        let mut index = VideoIndex::new("model".into());
        index.add(vec![(entry("a", 0.0), vec![1.0, 0.0]), (entry("a", 1.0), vec![0.6, 0.8])]).unwrap();
        index.add(vec![(entry("b", 0.0), vec![0.0, 1.0])]).unwrap();
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
        let changed = IndexEntry { version: "2".into(), ..entry("a", 3.0) };
        index.add(vec![(changed.clone(), vec![0.8, 0.6]), (entry("c", 0.0), vec![0.6, 0.8])]).unwrap();
        assert!(index.has("a", "2") && !index.has("a", "1") && index.has("b", "1") && index.has("c", "1"));
        let found: Vec<&IndexEntry> =
            index.nearest(&[1.0, 0.0], 9).into_iter().map(|(_, entry)| entry).collect();
        assert_eq!(found, [&changed, &entry("c", 0.0), &entry("b", 0.0)]);
        VideoIndex::new("model".into()).write(&path).unwrap();
        assert!(VideoIndex::read(&path, "model".into()).unwrap().is_empty());
    }

    #[test]
    fn equal_windows_keep_the_order_of_the_index() {
        let mut index = VideoIndex::new("model".into());
        // Wider than a block of partial sums, and more rows than a thread takes.
        let vector = |n: usize| (0..19).map(|i| if i == n % 19 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        index.add((0..3000).map(|n| (entry("a", n as f64), vector(n))).collect()).unwrap();
        let found = index.nearest(&vector(18), 200);
        let starts: Vec<f64> = found.iter().map(|(_, entry)| entry.start).collect();
        let equal = (0..3000).filter(|n| n % 19 == 18);
        let others = (0..3000).filter(|n| n % 19 != 18);
        assert_eq!(starts, equal.chain(others).take(200).map(f64::from).collect::<Vec<_>>());
        assert!(index.add(vec![(entry("b", 0.0), vec![1.0])]).is_err(), "a vector of another width");
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
        let fewer = text.replace("\"start\":1.0", "\"begin\":1.0");
        assert_ne!(fewer, text);
        assert!(matches!(read(fewer.as_bytes()), Err(IndexError::Malformed(_))));
    }
}
