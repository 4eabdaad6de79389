//! Source of a language model: a GGUF file, or a directory in Hugging Face's format.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::Value;

use super::architecture::{GgufReader, HuggingFaceReader, LanguageConfig, gguf_reader, hugging_face_reader};
use super::gguf::Gguf;
use super::hugging_face::ModelDirectory;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::weights::{Quantization, Rename, Weights};

/// A language model on disk, described but not loaded.
pub struct LanguageSource {
    path: PathBuf,
    format: Format,
    config: LanguageConfig,
}

enum Format {
    Gguf(Gguf, &'static GgufReader),
    Directory(ModelDirectory, &'static HuggingFaceReader),
}

impl Format {
    fn error(&self, reason: String) -> Error {
        match self {
            Format::Gguf(gguf, _) => gguf.error(reason),
            Format::Directory(directory, _) => directory.error(reason),
        }
    }
}

impl LanguageSource {
    /// Reads the description of a language model: a `.gguf` file, or a directory with `config.json`, a tokenizer and weights.
    ///
    /// # Errors
    /// The architecture is unknown, or its configuration is invalid.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::of_directory(path, ModelDirectory::open(path)?);
        }
        let gguf = Gguf::open(path)?;
        let architecture = gguf.architecture()?;
        let Some(reader) = gguf_reader(architecture) else {
            return Err(gguf.error(format!("unknown architecture `{architecture}`")));
        };
        let config = (reader.config)(&gguf)?;
        Ok(Self { path: path.into(), format: Format::Gguf(gguf, reader), config })
    }

    /// Takes the language model that is a part of the model in the directory `path`. `config` is its part of `config.json`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn part(path: &Path, config: Value) -> Result<Self> {
        Self::of_directory(path, ModelDirectory::part(path, config))
    }

    fn of_directory(path: &Path, directory: ModelDirectory) -> Result<Self> {
        let model_type = directory.model_type()?;
        let Some(reader) = hugging_face_reader(model_type) else {
            return Err(directory.error(format!("unknown model type `{model_type}`")));
        };
        let config = directory.read(reader.config)?;
        Ok(Self { path: path.into(), format: Format::Directory(directory, reader), config })
    }

    /// Changes the number of rows of the embedding and of the head: a checkpoint that added tokens has its own.
    pub fn with_vocabulary(mut self, rows: usize) -> Self {
        self.config = self.config.with_vocabulary(rows);
        self
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
        let names = |name: &str| self.rename(name);
        Weights::open(&self.weight_files()?, device, dtype, quantization, &names)
    }

    /// Returns the files of the weights. A checkpoint that replaces some of the tensors opens them together with its own.
    ///
    /// # Errors
    /// There are no weights, or an index of shards is malformed.
    pub fn weight_files(&self) -> Result<Vec<PathBuf>> {
        match &self.format {
            Format::Gguf(..) => Ok(vec![self.path.clone()]),
            Format::Directory(directory, _) => directory.weight_files(),
        }
    }

    /// Maps the name of a tensor of the files to ours.
    pub fn rename(&self, theirs: &str) -> Rename {
        match &self.format {
            Format::Gguf(_, reader) => (reader.names)(theirs),
            Format::Directory(_, reader) => (reader.names)(&self.config, theirs),
        }
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    /// The tokenizer is missing or malformed, or has more tokens than the embedding has rows.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.format {
            Format::Gguf(gguf, _) => Tokenizer::from_gguf(gguf)?,
            Format::Directory(directory, _) => {
                let tokenizer = Tokenizer::from_folder(&self.path)?;
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
