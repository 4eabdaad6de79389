//! Keys of the cache: the content of a video, the model, and the sampling.

use std::io;
use std::path::Path;

use flamingo::digest::{sha256, sha256_of_file};
use inference::analysis::AnalysisSpec;

use super::VisualTokenCache;

/// Part of every key: entries of an incompatible build are not found. Version 4 has the vision features of each window, and the number of
/// its visible tokens.
/// Entries of earlier versions stay in the store until the operator deletes them.
const FORMAT_VERSION: &str = "flamingo.visual_tokens/4";

/// Hash and size of the bytes of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub sha256: String,
    pub bytes: u64,
}

/// Reads the hash and size of a file.
///
/// # Errors
/// The file cannot be read.
pub fn content_of(path: &Path) -> io::Result<Content> {
    Ok(Content { sha256: sha256_of_file(path)?, bytes: path.metadata()?.len() })
}

impl VisualTokenCache {
    /// Returns the key of all inputs that visual tokens depend on.
    pub fn key(&self, content: &Content, spec: &AnalysisSpec) -> String {
        let AnalysisSpec { sampling, max_frames, long, .. } = spec;
        let (revision, content, window) = (&self.revision, &content.sha256, spec.window_length());
        let all = serde_json::json!([FORMAT_VERSION, revision, content, sampling, window, max_frames, long]);
        sha256(all.to_string().as_bytes())
    }
}
