//! The frozen language model, offered layer by layer so that gated cross-attention can stand between its layers.
//!
//! Rows of different requests are packed along one axis: `n` tokens of any number of rows form a matrix (n, d), the
//! dense maps see one matrix, and attention goes row by row, each over its own [`KvCache`]. There is no padding and
//! no mask for it, and prefill and decode steps of different rows mix freely in one pass.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::error::Result;

pub mod kv_cache;

pub use kv_cache::{CacheShape, KvCache};

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
        Ok(Self { rows: packed, positions: Tensor::new(positions, device)? })
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
