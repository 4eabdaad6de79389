//! Keys of the cache: the content of a video, the model, and the sampling.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use inference::analysis::AnalysisSpec;
use sha2::{Digest, Sha256};

use super::VisualTokenCache;

/// Part of every key: entries of an incompatible build are not found. Version 1 was named `flamingo.seen/1`; its entries stay
/// in the store until the operator deletes them.
const FORMAT_VERSION: &str = "flamingo.visual_tokens/2";

/// Bytes per read.
const CHUNK: usize = 1 << 20;

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

impl VisualTokenCache {
    /// Returns the key of all inputs that visual tokens depend on.
    pub fn key(&self, content: &Content, spec: &AnalysisSpec) -> String {
        let AnalysisSpec { sampling, window, max_frames, .. } = spec;
        let all =
            serde_json::json!([FORMAT_VERSION, self.revision, content.sha256, sampling, window, max_frames]);
        hex(&Sha256::digest(all.to_string()))
    }
}
