//! The frozen language model, run layer by layer so that gated cross-attention can be placed between its layers.
//!
//! Rows of different requests are packed along one axis: `n` tokens of any number of rows form a matrix (n, d). The
//! linear maps multiply one matrix; in attention each row reads its own [`KvCache`] only. Prefill and decode steps of
//! different rows mix freely in one pass ([`PackedBatch`]).

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::weights::{Quantization, Weights};

pub(crate) mod json;
pub mod kv_cache;
pub mod packed_batch;
pub mod rotary;
pub mod llama;
pub mod mpt;
pub mod gpt_neox;
pub mod opt;
pub mod gguf;
pub mod hugging_face;
mod vocabulary_files;
pub mod tokenizer;
pub mod architecture;
pub mod source;

pub use architecture::{LanguageConfig, LanguageSizes, build};
pub use kv_cache::{CacheShape, KvCache, KvPool};
pub use packed_batch::{AttentionBias, HeadObserver, PackedBatch};
pub use source::LanguageSource;
pub use tokenizer::Tokenizer;

/// Loads a language model and its tokenizer: a `.gguf` file, or a directory with `config.json`, `tokenizer.json` and
/// safetensors.
///
/// # Errors
/// The architecture or a part of its configuration is unknown to this build, the weights do not match it exactly, or the
/// tokenizer has more tokens than the embedding.
pub fn load(
    path: &Path,
    device: &Device,
    dtype: DType,
    quantization: Quantization,
) -> Result<(Box<dyn LanguageModel>, Tokenizer)> {
    let source = LanguageSource::open(path)?;
    let weights = source.weights(device, dtype, quantization)?;
    let model = build(source.config(), &weights)?;
    weights.finish()?;
    Ok((model, source.tokenizer()?))
}

/// A decoder-only language model. Immutable: the state of a request is in the [`PackedBatch`] of a pass. The caller runs
/// all layers in order and then calls [`PackedBatch::advance`] once.
pub trait LanguageModel: Send + Sync {
    /// Returns the embeddings of token ids at `positions` within their rows: (n), (n) -> (n, d). Models with rotary positions
    /// or ALiBi ignore the positions.
    ///
    /// # Errors
    /// An id is not in the vocabulary, or the device refuses an operation.
    fn embed(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor>;

    /// Returns the sizes.
    fn sizes(&self) -> &Sizes;

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

    /// Returns the number of decoder layers.
    fn n_layers(&self) -> usize {
        self.sizes().cache.layers
    }
}

/// Sizes of a loaded language model.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Width d of the hidden state.
    pub width: usize,
    /// Number of token ids that the head scores.
    pub vocabulary: usize,
    /// Number of token ids that the embedding reads: those of the head, and ids that only a prompt has.
    pub embeddings: usize,
    /// Length of the longest row, cached and new tokens together.
    pub max_positions: usize,
    /// Sizes of a row's KV cache.
    pub cache: CacheShape,
}

impl Sizes {
    /// Returns the sizes of a model on the device and in the dtype of its weights.
    fn new(sizes: &LanguageSizes, max_positions: usize, weights: &Weights) -> Self {
        let LanguageSizes { width, vocabulary, layers, kv_heads, head_width, .. } = *sizes;
        let (dtype, device) = (weights.dtype(), weights.device().clone());
        let cache = CacheShape { layers, heads: kv_heads, width: head_width, dtype, device };
        Self { width, vocabulary, embeddings: vocabulary, max_positions, cache }
    }

    /// Refuses a batch with a row beyond the positions of the model.
    fn check_positions(&self, batch: &PackedBatch) -> Result<()> {
        match (batch.end(), self.max_positions) {
            (end, most) if end > most => {
                Err(Error::Prompt(format!("a row of {end} tokens exceeds the {most} positions of the model")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
