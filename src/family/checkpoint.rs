//! Checkpoint of a whole model in Hugging Face's format: one directory with the weights of all parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{LoadOptions, config_error};
use crate::digest;
use crate::error::{Error, Result};
use crate::language::Tokenizer;
use crate::language::hugging_face::ModelDirectory;
use crate::model::FlamingoConfig;
use crate::vision::VisionConfig;
use crate::weights::{Rename, Weights};

/// First segments of our names of the tensors that visual tokens depend on.
const VISUAL: [&str; 3] = ["vision", "resampler", "projector"];
/// First segment of our names of the language model's tensors.
pub(super) const LANGUAGE: &str = "language";

/// Weights and tokenizer of a directory.
pub(super) struct Checkpoint {
    path: PathBuf,
    directory: ModelDirectory,
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens the weights of a directory under our names. Reads headers only.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn open(path: &Path, options: &LoadOptions, rename: &dyn Fn(&str) -> Rename) -> Result<Self> {
        let directory = ModelDirectory::open(path)?;
        let files = directory.weight_files()?;
        let LoadOptions { device, dtype, quantization, .. } = options;
        let weights = Weights::open(&files, device, *dtype, *quantization, rename)?;
        let weights = weights.by_headers(options.headers.as_ref());
        Ok(Self { path: path.into(), directory, weights })
    }

    /// Returns the name of the directory, which names the model.
    pub fn name(&self) -> String {
        directory_name(&self.path)
    }

    /// Loads `tokenizer.json`.
    ///
    /// # Errors
    /// The file is missing or malformed, or has more tokens than the embedding has `rows`.
    pub fn tokenizer(&self, rows: usize) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_json(&self.path.join("tokenizer.json"))?;
        let (bos, eos) = self.directory.text_bounds(|token| tokenizer.token_id(token))?;
        match tokenizer.vocabulary() {
            tokens if tokens > rows => {
                Err(self.error(format!("the tokenizer has {tokens} tokens, the embedding only {rows}")))
            }
            _ => Ok(tokenizer.with_text_bounds(bos, eos)),
        }
    }

    /// Returns the id of a special token of the family.
    ///
    /// # Errors
    /// The tokenizer does not have it.
    pub fn token(&self, tokenizer: &Tokenizer, name: &str) -> Result<u32> {
        let id = tokenizer.token_id(name);
        id.ok_or_else(|| self.error(format!("`{name}` is not in the tokenizer's vocabulary")))
    }

    /// Returns the SHA-256 of `config.json` and of all weights that visual tokens depend on, by role. The language model is not
    /// hashed: its files are large.
    ///
    /// # Errors
    /// A file or tensor cannot be read.
    pub fn sha256(&self) -> Result<BTreeMap<String, String>> {
        let mut hashes = content_sha256(&self.weights)?;
        hashes.insert("config".to_owned(), self.directory.config_sha256()?);
        Ok(hashes)
    }

    /// Returns the number of parameters by part, without the language model.
    pub fn parameters(&self) -> BTreeMap<String, usize> {
        let mut parts = self.weights.parameters();
        parts.remove(LANGUAGE);
        parts
    }

    fn error(&self, reason: String) -> Error {
        config_error(&self.path, reason)
    }
}

/// Returns the name of a directory, which names its model.
pub(super) fn directory_name(directory: &Path) -> String {
    let path = directory.canonicalize().unwrap_or_else(|_| directory.into());
    path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Returns the SHA-256 of all weights that visual tokens depend on, by role.
///
/// # Errors
/// A tensor cannot be read.
pub(super) fn content_sha256(weights: &Weights) -> Result<BTreeMap<String, String>> {
    Ok([("visual".to_owned(), weights.content_sha256(&VISUAL)?)].into())
}

/// Returns [`ModelParts::language_sha256`](super::ModelParts::language_sha256) of a checkpoint.
///
/// # Errors
/// A tensor cannot be read.
pub(super) fn language_sha256(weights: &Weights, options: &LoadOptions) -> Result<Option<String>> {
    options.hash_language.then(|| weights.content_sha256(&[LANGUAGE, "cross_attention"])).transpose()
}

/// Returns [`ModelParts::visual_sha256`](super::ModelParts::visual_sha256) from the hashes of a checkpoint.
pub(super) fn visual_sha256(
    vision: &VisionConfig,
    model: &FlamingoConfig,
    sha256: &BTreeMap<String, String>,
) -> String {
    let connector = format!("{:?}", model.connector);
    let all = serde_json::json!([vision, connector, sha256.get("visual")]);
    digest::sha256(all.to_string().as_bytes())
}
