//! Keys and values of one row, owned by the request.
//!
//! A cache is a chain of frozen pieces, which rows share, and a tail of its own, preallocated and written in place.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernels::attention::{KeysValues, attention};

/// The sizes of a language model's keys and values.
#[derive(Debug, Clone)]
pub struct CacheShape {
    pub layers: usize,
    /// Key and value heads (fewer than query heads when queries are grouped).
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
    pub dtype: DType,
    pub device: Device,
}

/// Keys and values of one row at every layer.
#[derive(Debug)]
pub struct KvCache {
    shape: CacheShape,
    frozen: Vec<Arc<Frozen>>,
    tail: Tail,
    tail_len: usize,
}

#[derive(Debug)]
struct Frozen {
    layers: Vec<KeysValues>,
    len: usize,
}

#[derive(Debug)]
enum Tail {
    /// Nothing is kept: every pass stands alone, and gradients flow.
    Off,
    /// (h_kv, capacity, d) per layer, of which the first `tail_len` are filled.
    Kept { layers: Vec<KeysValues>, capacity: usize },
}

impl KvCache {
    /// An empty cache with room for `capacity` tokens.
    pub fn new(shape: &CacheShape, capacity: usize) -> Result<Self> {
        Ok(Self { shape: shape.clone(), frozen: Vec::new(), tail: Tail::new(shape, capacity)?, tail_len: 0 })
    }

    /// A cache that keeps nothing: one pass over a whole sequence, differentiable.
    pub fn off(shape: &CacheShape) -> Self {
        Self { shape: shape.clone(), frozen: Vec::new(), tail: Tail::Off, tail_len: 0 }
    }

    /// Tokens cached so far.
    pub fn len(&self) -> usize {
        self.frozen.iter().map(|f| f.len).sum::<usize>() + self.tail_len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens for which there is room.
    pub fn room(&self) -> usize {
        match &self.tail {
            Tail::Off => usize::MAX,
            Tail::Kept { capacity, .. } => capacity - self.tail_len,
        }
    }

    /// Freezes what is cached, so that forks share it, and opens a new tail of `capacity` tokens.
    pub fn freeze(&mut self, capacity: usize) -> Result<()> {
        if let Tail::Kept { layers, .. } = &self.tail
            && self.tail_len > 0
        {
            let len = self.tail_len;
            let cut = |(k, v): &KeysValues| {
                Ok((k.narrow(1, 0, len)?.contiguous()?, v.narrow(1, 0, len)?.contiguous()?))
            };
            let layers = layers.iter().map(cut).collect::<Result<Vec<_>>>()?;
            self.frozen.push(Arc::new(Frozen { layers, len }));
        }
        self.tail = Tail::new(&self.shape, capacity)?;
        self.tail_len = 0;
        Ok(())
    }

    /// A row with the same past: frozen pieces are shared, the tail is copied on the device.
    pub fn fork(&self) -> Result<Self> {
        let tail = match &self.tail {
            Tail::Off => Tail::Off,
            Tail::Kept { layers, capacity } => {
                let copy = |(k, v): &KeysValues| Ok((k.copy()?, v.copy()?));
                Tail::Kept { layers: layers.iter().map(copy).collect::<Result<_>>()?, capacity: *capacity }
            }
        };
        Ok(Self { shape: self.shape.clone(), frozen: self.frozen.clone(), tail, tail_len: self.tail_len })
    }

    /// The causal mask (n, l) for `n` new tokens, in the cache's dtype; one new token sees everything and needs none.
    pub fn causal_mask(&self, n: usize) -> Result<Option<Tensor>> {
        if n == 1 {
            return Ok(None);
        }
        let (past, l) = (self.len(), self.len() + n);
        let hidden = |i: usize, j: usize| if j <= past + i { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..n).flat_map(|i| (0..l).map(move |j| hidden(i, j))).collect();
        Ok(Some(Tensor::from_vec(mask, (n, l), &self.shape.device)?.to_dtype(self.shape.dtype)?))
    }

    /// Appends `k` and `v` (h_kv, n, d) at `layer` and lets `q` (h, n, d) attend to everything under the mask of
    /// [`causal_mask`](Self::causal_mask): -> (h, n, d).
    ///
    /// The length grows with [`advance`](Self::advance), after the last layer.
    ///
    /// # Errors
    /// No room is left.
    pub fn attend(
        &mut self,
        layer: usize,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        scale: f64,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let n = k.dim(1)?;
        if n > self.room() {
            let room = self.room();
            return Err(Error::Prompt(format!("{n} more tokens do not fit the row: it has room for {room}")));
        }
        let mut pieces: Vec<KeysValues> = self.frozen.iter().map(|f| f.layers[layer].clone()).collect();
        match &self.tail {
            Tail::Off => pieces.push((k.clone(), v.contiguous()?)),
            Tail::Kept { layers, .. } => {
                let (keys, values) = &layers[layer];
                keys.slice_set(&k.contiguous()?, 1, self.tail_len)?;
                values.slice_set(&v.contiguous()?, 1, self.tail_len)?;
                let len = self.tail_len + n;
                pieces.push((keys.narrow(1, 0, len)?, values.narrow(1, 0, len)?));
            }
        }
        attention(q, &pieces, scale, mask)
    }

    /// Counts the `n` tokens that every layer has appended.
    pub fn advance(&mut self, n: usize) {
        if let Tail::Kept { .. } = self.tail {
            self.tail_len += n;
        }
    }
}

impl Tail {
    fn new(shape: &CacheShape, capacity: usize) -> Result<Self> {
        let empty = || Tensor::zeros((shape.heads, capacity, shape.width), shape.dtype, &shape.device);
        let layers = (0..shape.layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        Ok(Tail::Kept { layers, capacity })
    }
}
