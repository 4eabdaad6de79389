//! The frozen language model, run layer by layer so that gated cross-attention can be placed between its layers.
//!
//! Rows of different requests are packed along one axis: `n` tokens of any number of rows form a matrix (n, d). The
//! linear maps multiply one matrix; in attention each row reads its own [`KvCache`] only. Prefill and decode steps of
//! different rows mix freely in one pass ([`PackedBatch`]).

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::weights::{Quantization, Weights};

pub mod kv_cache;
pub mod packed_batch;
pub mod llama;
pub mod gguf;
pub mod hugging_face;
pub mod tokenizer;

pub use kv_cache::{CacheShape, KvCache, KvPool};
pub use packed_batch::PackedBatch;
pub use tokenizer::Tokenizer;

use gguf::Gguf;
use hugging_face::ModelDirectory;
use llama::{Llama, LlamaConfig};

/// Loads a language model and its tokenizer: a `.gguf` file, or a directory with `config.json`, `tokenizer.json` and
/// safetensors.
///
/// # Errors
/// The architecture or something in its configuration is unknown to this build, the weights do not match it exactly,
/// or the tokenizer has more tokens than the embedding.
pub fn build(
    path: &Path,
    device: &Device,
    dtype: DType,
    quantization: Quantization,
) -> Result<(Box<dyn LanguageModel>, Tokenizer)> {
    if path.is_dir() {
        let directory = ModelDirectory::open(path)?;
        let model = build_directory(&directory, device, dtype, quantization)?;
        let tokenizer = Tokenizer::from_json(&path.join("tokenizer.json"))?;
        let (bos, eos) = directory.text_bounds(|token| tokenizer.token_id(token))?;
        check_vocabulary(&*model, &tokenizer).map_err(|reason| directory.error(reason))?;
        return Ok((model, tokenizer.with_text_bounds(bos, eos)));
    }
    let gguf = Gguf::open(path)?;
    let model = build_gguf(&gguf, path, device, dtype, quantization)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    check_vocabulary(&*model, &tokenizer).map_err(|reason| gguf.error(reason))?;
    Ok((model, tokenizer))
}

fn build_gguf(
    gguf: &Gguf,
    path: &Path,
    device: &Device,
    dtype: DType,
    quantization: Quantization,
) -> Result<Box<dyn LanguageModel>> {
    let files = [path.to_path_buf()];
    match gguf.architecture()? {
        "llama" => {
            let config = gguf.llama_config()?;
            let weights = Weights::open(&files, device, dtype, quantization, &gguf::llama_names)?;
            let model = Llama::new(config, &weights)?;
            weights.finish()?;
            Ok(Box::new(model))
        }
        other => Err(gguf.error(format!("unknown architecture `{other}`"))),
    }
}

fn build_directory(
    directory: &ModelDirectory,
    device: &Device,
    dtype: DType,
    quantization: Quantization,
) -> Result<Box<dyn LanguageModel>> {
    match directory.model_type()? {
        "llama" => {
            let config = directory.llama_config()?;
            let (files, names) = (directory.weight_files()?, hugging_face::llama_names(config.tied));
            let weights = Weights::open(&files, device, dtype, quantization, &names)?;
            let model = Llama::new(config, &weights)?;
            weights.finish()?;
            Ok(Box::new(model))
        }
        other => Err(directory.error(format!("unknown model type `{other}`"))),
    }
}

/// Reads the sizes of the language model at `path`, without its weights.
///
/// # Errors
/// As [`build`], as far as the description goes.
pub fn sizes(path: &Path) -> Result<LlamaConfig> {
    if path.is_dir() {
        let directory = ModelDirectory::open(path)?;
        return match directory.model_type()? {
            "llama" => directory.llama_config(),
            other => Err(directory.error(format!("unknown model type `{other}`"))),
        };
    }
    let gguf = Gguf::open(path)?;
    match gguf.architecture()? {
        "llama" => gguf.llama_config(),
        other => Err(gguf.error(format!("unknown architecture `{other}`"))),
    }
}

/// Checks that the embedding has a row for every token. Padding rows beyond the tokenizer's ids are allowed.
fn check_vocabulary(model: &dyn LanguageModel, tokenizer: &Tokenizer) -> Result<(), String> {
    match (tokenizer.vocabulary(), model.vocabulary()) {
        (tokens, rows) if tokens > rows => {
            Err(format!("the tokenizer has {tokens} tokens, the embedding only {rows}"))
        }
        _ => Ok(()),
    }
}

/// A decoder-only language model. Immutable: the state of a request is in the [`PackedBatch`] of a pass. The caller runs
/// all layers in order and then calls [`PackedBatch::advance`] once.
pub trait LanguageModel: Send + Sync {
    /// Returns the embeddings of token ids: (n) -> (n, d).
    ///
    /// # Errors
    /// An id is not in the vocabulary, or the device refuses an operation.
    fn embed(&self, ids: &Tensor) -> Result<Tensor>;

    /// Returns the number of decoder layers.
    fn n_layers(&self) -> usize;

    /// Runs decoder layer `index`: (n, d) -> (n, d). Writes the keys and values of the rows into their caches.
    ///
    /// # Errors
    /// A row reaches beyond the positions of the model, or the device refuses an operation.
    fn layer(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor>;

    /// Applies the final normalisation and the output head: (n, d) -> (n, vocabulary), f32.
    ///
    /// # Errors
    /// The device refuses an operation.
    fn head(&self, x: &Tensor) -> Result<Tensor>;

    /// Returns the sizes of a row's KV cache.
    fn cache_shape(&self) -> CacheShape;

    /// Returns the width d of the hidden state.
    fn width(&self) -> usize;

    /// Returns the number of token ids that `head` scores.
    fn vocabulary(&self) -> usize;

    /// Returns the length of the longest row, cached and new tokens together.
    fn max_positions(&self) -> usize;
}

#[cfg(test)]
mod tests;
