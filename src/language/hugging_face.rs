//! Hugging Face format: a directory with `config.json`, a tokenizer, and safetensors or PyTorch files, one or shards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest::sha256_of_file;
use crate::error::{Error, Result, WeightsError};
use crate::weights::Rename;

/// A model directory and its `config.json`.
pub struct ModelDirectory {
    path: PathBuf,
    config: Value,
}

impl ModelDirectory {
    /// Reads `config.json` of the directory `path`.
    ///
    /// # Errors
    /// `config.json` is missing or is not JSON.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), config: read_json(&path.join("config.json"))? })
    }

    /// Takes a directory in which the language model is a part of a whole. `config` is its part of `config.json`.
    pub fn part(path: &Path, config: Value) -> Self {
        Self { path: path.into(), config }
    }

    /// Returns `model_type`.
    ///
    /// # Errors
    /// The key is missing or not a string.
    pub fn model_type(&self) -> Result<&str> {
        let model_type = self.config.get("model_type").and_then(Value::as_str);
        model_type.ok_or_else(|| self.error("`model_type` is missing".into()))
    }

    /// Reads the configuration of an architecture.
    pub(super) fn read<T>(&self, read: fn(&Value) -> Result<T, String>) -> Result<T> {
        read(&self.config).map_err(|reason| self.error(reason))
    }

    /// Returns the files that hold the weights: `model.safetensors` or `pytorch_model.bin`, or the shards that
    /// `model.safetensors.index.json` or `pytorch_model.bin.index.json` lists. Safetensors come first.
    ///
    /// # Errors
    /// There are no weights, or the index is malformed or lists a path that is not a file name of this directory.
    pub fn weight_files(&self) -> Result<Vec<PathBuf>> {
        for name in ["model.safetensors", "pytorch_model.bin"] {
            let (index, file) = (self.path.join(format!("{name}.index.json")), self.path.join(name));
            if index.exists() {
                return shards(&self.path, &index);
            }
            if file.exists() {
                return Ok(vec![file]);
            }
        }
        let path = self.path.join("model.safetensors");
        let reason = "the directory has no weights: neither safetensors nor `pytorch_model.bin`";
        Err(Error::Config { path, reason: reason.into() })
    }

    /// Returns the tokens that begin and end a text: by name from the tokenizer's configuration, else by number from
    /// `config.json`.
    pub(crate) fn text_bounds(&self, id: impl Fn(&str) -> Option<u32>) -> Result<(Option<u32>, Vec<u32>)> {
        let path = self.path.join("tokenizer_config.json");
        let names = if path.exists() { read_json(&path)? } else { Value::Null };
        let named = |key: &str| {
            let token = names.get(key)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).and_then(&id)
        };
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let numbered = |key: &str| match self.config.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(number).collect(),
            Some(value) => number(value).into_iter().collect(),
            None => Vec::new(),
        };
        let bos = named("bos_token").or_else(|| numbered("bos_token_id").first().copied());
        let mut eos = numbered("eos_token_id");
        if let Some(named) = named("eos_token")
            && !eos.contains(&named)
        {
            eos.insert(0, named);
        }
        Ok((bos, eos))
    }

    /// Returns the SHA-256 of `config.json`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn config_sha256(&self) -> Result<String> {
        let path = self.path.join("config.json");
        sha256_of_file(&path).map_err(|source| WeightsError::Io { path, source }.into())
    }

    pub(super) fn error(&self, reason: String) -> Error {
        Error::Config { path: self.path.join("config.json"), reason }
    }
}

/// Returns the shards that an index lists, each once.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let error = |reason: String| Error::Config { path: index.into(), reason };
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(error("`weight_map` is missing".into()));
    };
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            Some(file) if Path::new(file).file_name().is_some_and(|name| name == file) => {
                files.insert(folder.join(file));
            }
            _ => {
                return Err(error(format!(
                    "tensor `{tensor}` is in {file}, not in a file of the index's folder"
                )));
            }
        }
    }
    Ok(files.into_iter().collect())
}

/// Maps the name of a Llama's tensor, which is ours already. A tied head that is stored nevertheless must equal the
/// embedding; rotary frequencies of old checkpoints are ignored, because the model computes them.
pub fn llama_name(tied: bool, theirs: &str) -> Rename {
    match theirs {
        "lm_head.weight" if tied => Rename::To("model.embed_tokens.weight".into()),
        theirs if theirs.ends_with(".rotary_emb.inv_freq") => Rename::Ignore,
        theirs => Rename::To(theirs.into()),
    }
}

/// Largest JSON or text file, in bytes. An index of shards names every tensor: some hundred kilobytes.
const JSON_LIMIT: u64 = 16 << 20;

/// Reads a JSON file.
///
/// # Errors
/// The file is missing, too long or not JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|e| Error::Config { path: path.into(), reason: format!("not JSON: {e}") })
}

/// Reads a text file.
///
/// # Errors
/// The file is missing, too long or not UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let io = |source| WeightsError::Io { path: path.into(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > JSON_LIMIT {
        return Err(Error::Config {
            path: path.into(),
            reason: format!("the file has {length} bytes, at most {JSON_LIMIT} are allowed"),
        });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|_| Error::Config { path: path.into(), reason: "not UTF-8".into() })
}
