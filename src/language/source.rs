//! Source of a language model: a GGUF file, or a directory in Hugging Face's format.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::architecture::{Architecture, LanguageConfig, architecture};
use super::gguf::Gguf;
use super::hugging_face::ModelDirectory;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::weights::{Quantization, Weights};

/// A language model on disk, described but not loaded.
pub struct LanguageSource {
    path: PathBuf,
    format: Format,
    architecture: &'static Architecture,
    config: LanguageConfig,
}

enum Format {
    Gguf(Gguf),
    Directory(ModelDirectory),
}

impl Format {
    fn error(&self, reason: String) -> Error {
        match self {
            Format::Gguf(gguf) => gguf.error(reason),
            Format::Directory(directory) => directory.error(reason),
        }
    }
}

impl LanguageSource {
    /// Reads the description of a language model: a `.gguf` file, or a directory with `config.json`, `tokenizer.json` and
    /// safetensors.
    ///
    /// # Errors
    /// The architecture is unknown, or its configuration is invalid.
    pub fn open(path: &Path) -> Result<Self> {
        let (format, kind, name) = if path.is_dir() {
            let directory = ModelDirectory::open(path)?;
            let name = directory.model_type()?.to_string();
            (Format::Directory(directory), "model type", name)
        } else {
            let gguf = Gguf::open(path)?;
            let name = gguf.architecture()?.to_string();
            (Format::Gguf(gguf), "architecture", name)
        };
        let architecture =
            architecture(&name).ok_or_else(|| format.error(format!("unknown {kind} `{name}`")))?;
        let config = match &format {
            Format::Gguf(gguf) => (architecture.from_gguf)(gguf)?,
            Format::Directory(directory) => (architecture.from_hugging_face)(directory)?,
        };
        Ok(Self { path: path.into(), format, architecture, config })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Opens the weights. Reads headers only.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn weights(&self, device: &Device, dtype: DType, quantization: Quantization) -> Result<Weights> {
        match &self.format {
            Format::Gguf(_) => {
                let names = self.architecture.gguf_names;
                Weights::open(std::slice::from_ref(&self.path), device, dtype, quantization, &names)
            }
            Format::Directory(directory) => {
                let names = |name: &str| (self.architecture.hugging_face_names)(&self.config, name);
                Weights::open(&directory.weight_files()?, device, dtype, quantization, &names)
            }
        }
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    /// The tokenizer is missing or malformed, or has more tokens than the embedding has rows.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.format {
            Format::Gguf(gguf) => Tokenizer::from_gguf(gguf)?,
            Format::Directory(directory) => {
                let tokenizer = Tokenizer::from_json(&self.path.join("tokenizer.json"))?;
                let (bos, eos) = directory.text_bounds(|token| tokenizer.token_id(token))?;
                tokenizer.with_text_bounds(bos, eos)
            }
        };
        // An embedding may be padded beyond the tokenizer's ids, but not the other way round.
        match (tokenizer.vocabulary(), self.config.sizes().vocabulary) {
            (tokens, rows) if tokens > rows => Err(self
                .format
                .error(format!("the tokenizer has {tokens} tokens, the embedding only {rows}"))),
            _ => Ok(tokenizer),
        }
    }
}
