//! Cached states of the frozen language model below the first gated cross-attention.

use candle_core::{DType, Tensor};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::Result;
use crate::model::{Flamingo, RowInput};

/// Bytes of the cached states: about ten thousand short texts of a language model with 576 channels.
const BUDGET: u64 = 1 << 29;
/// Size of a text for which the cache plans.
const TYPICAL_BYTES: u64 = 1 << 15;

/// Hidden states of texts below the first gated cross-attention, by token ids. Captions and questions repeat, so most of
/// them are computed once.
pub(super) struct TextStates<'a> {
    model: &'a Flamingo,
    cache: Cache<Vec<u32>, Tensor, Bytes>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Vec<u32>, Tensor> for Bytes {
    fn weight(&self, ids: &Vec<u32>, states: &Tensor) -> u64 {
        let dtype: DType = states.dtype();
        (states.elem_count() * dtype.size_in_bytes() + size_of_val(&ids[..])) as u64
    }
}

impl<'a> TextStates<'a> {
    pub(super) fn new(model: &'a Flamingo) -> Self {
        Self { model, cache: Cache::with_weighter((BUDGET / TYPICAL_BYTES) as usize, BUDGET, Bytes) }
    }

    /// Runs whole sequences through the model: last hidden states, packed (n, d).
    pub(super) fn forward(&self, inputs: &mut [RowInput]) -> Result<Tensor> {
        let states = self.states(&inputs.iter().map(|input| input.ids).collect::<Vec<_>>())?;
        self.model.forward_from(inputs, &states)
    }

    /// States of `texts`, packed (n, d). Each text is computed alone, so that its states do not depend on the texts that an
    /// interrupted training has computed before.
    fn states(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let states = |ids: &&[u32]| {
            if let Some(states) = self.cache.get(*ids) {
                return Ok(states);
            }
            let states = self.model.states_below_media(&[ids])?.detach();
            self.cache.insert(ids.to_vec(), states.clone());
            Ok(states)
        };
        Ok(Tensor::cat(&texts.iter().map(states).collect::<Result<Vec<_>>>()?, 0)?)
    }
}
