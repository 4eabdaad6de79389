//! The frozen language model, offered layer by layer so that gated cross-attention can stand between its layers.
//!
//! Rows of different requests are packed along one axis: `n` tokens of any number of rows form a matrix (n, d), the
//! dense maps see one matrix, and attention goes row by row, each over its own [`KvCache`]. There is no padding and
//! no mask for it, and prefill and decode steps of different rows mix freely in one pass.

use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::weights::{Quantization, Weights};

pub mod kv_cache;
pub mod llama;
pub mod gguf;
pub mod hugging_face;
pub mod tokenizer;

pub use kv_cache::{CacheShape, KvCache};
pub use tokenizer::Tokenizer;

use gguf::Gguf;
use hugging_face::ModelDirectory;
use llama::Llama;

/// Loads a language model and its tokenizer: a `.gguf` file, or a directory with `config.json`, `tokenizer.json` and
/// safetensors.
///
/// # Errors
/// The architecture or something in its configuration is unknown to this build, the weights do not match it exactly,
/// or the tokenizer knows more tokens than the model.
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

/// An embedding may be padded beyond the tokenizer's ids, never the other way round.
fn check_vocabulary(model: &dyn LanguageModel, tokenizer: &Tokenizer) -> Result<(), String> {
    match (tokenizer.vocabulary(), model.vocabulary()) {
        (tokens, rows) if tokens > rows => {
            Err(format!("the tokenizer has {tokens} tokens, the embedding only {rows}"))
        }
        _ => Ok(()),
    }
}

/// A decoder-only language model. Immutable: what belongs to a request is in `Rows`.
pub trait LanguageModel: Send + Sync {
    /// Token embeddings: (n) -> (n, d).
    fn embed(&self, ids: &Tensor) -> Result<Tensor>;

    fn n_layers(&self) -> usize;

    /// Decoder layer `index`: (n, d) -> (n, d). Appends the keys and values of the rows to their caches.
    fn layer(&self, index: usize, x: &Tensor, rows: &mut Rows) -> Result<Tensor>;

    /// Final normalisation and output head: (n, d) -> (n, vocabulary), f32.
    fn head(&self, x: &Tensor) -> Result<Tensor>;

    /// What a row's cache must hold.
    fn cache_shape(&self) -> CacheShape;

    /// Width d of the hidden state.
    fn width(&self) -> usize;

    /// Number of token ids that `head` scores.
    fn vocabulary(&self) -> usize;

    /// The longest row (cached and new tokens) that the positions reach.
    fn max_positions(&self) -> usize;
}

/// The rows of one packed pass.
pub struct Rows<'a> {
    rows: Vec<Row<'a>>,
    positions: Tensor,
    end: usize,
}

/// One row's share of the packed axis, and its cache.
pub struct Row<'a> {
    pub span: Range<usize>,
    pub cache: &'a mut KvCache,
    mask: Option<Tensor>,
}

impl<'a> Rows<'a> {
    /// Packs the rows in the given order: each brings the number of its new tokens and its cache.
    ///
    /// # Errors
    /// The device refuses the positions.
    pub fn new(rows: impl IntoIterator<Item = (usize, &'a mut KvCache)>, device: &Device) -> Result<Self> {
        let mut packed = Vec::new();
        let mut positions = Vec::new();
        for (len, cache) in rows {
            let start = positions.len();
            positions.extend((cache.len()..cache.len() + len).map(|p| p as u32));
            let mask = cache.causal_mask(len)?;
            packed.push(Row { span: start..start + len, cache, mask });
        }
        let end = positions.iter().max().map_or(0, |&last| last as usize + 1);
        Ok(Self { rows: packed, positions: Tensor::new(positions, device)?, end })
    }

    /// Length of the longest row, cached and new tokens together.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Position of every packed token within its row: (n), u32.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row<'a>> {
        self.rows.iter_mut()
    }

    /// Causal self-attention of every row over its cache and its new tokens, which are appended:
    /// q (h, n, d), k and v (h_kv, n, d) -> (h, n, d).
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        if let [only] = &mut self.rows[..] {
            return only.cache.attend(layer, (q, k, v), scale, only.mask.as_ref());
        }
        let mut out = Vec::with_capacity(self.rows.len());
        for row in &mut self.rows {
            let part = |x: &Tensor| x.narrow(1, row.span.start, row.span.len());
            let new = (&part(q)?, &part(k)?, &part(v)?);
            out.push(row.cache.attend(layer, new, scale, row.mask.as_ref())?);
        }
        Ok(Tensor::cat(&out, 1)?)
    }

    /// To be called once after all layers: the new tokens now count as cached.
    pub fn advance(&mut self) {
        for row in &mut self.rows {
            row.cache.advance(row.span.len());
        }
    }
}

#[cfg(test)]
mod tests;
