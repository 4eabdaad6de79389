//! GPT-NeoX (Pythia, RedPajama-INCITE): decoder layers with rotary positions of a part of each head, biases, one matrix for
//! queries, keys and values whose rows are grouped by head, and an output head of its own.
//!
//! Tensor names are those of transformers' `GPTNeoXForCausalLM` (`models/gpt_neox/modeling_gpt_neox.py`).

use candle_core::{DType, Tensor};

use super::rotary::Rotation;
use super::{AttentionBias, LanguageModel, PackedBatch, Sizes};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::merge_heads;
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::{Rename, Weights};

pub mod config;

pub use config::GptNeoXConfig;

/// A GPT-NeoX, dense or quantised.
pub struct GptNeoX {
    sizes: Sizes,
    embed_in: Linear,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    /// `None` when the head is the embedding matrix.
    embed_out: Option<Linear>,
    rotation: Rotation,
}

impl GptNeoX {
    /// Takes every tensor of the model from `weights`; the caller finishes the weights.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(config: GptNeoXConfig, weights: &Weights) -> Result<Self> {
        let (vocabulary, width) = (config.vocabulary, config.width);
        let model = weights.pp("gpt_neox");
        let embed_in = Linear::embedding(vocabulary, width, &model.pp("embed_in"))?;
        let layers = (0..config.layers)
            .map(|i| Layer::new(&config, &model.pp("layers").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let final_layer_norm = LayerNorm::new(width, config.norm_eps as f32, model.pp("final_layer_norm"))?;
        let embed_out = match config.tied {
            true => None,
            false => Some(Linear::head(width, vocabulary, &weights.pp("embed_out"))?),
        };
        let rotation = Rotation::new(&config.rope, config.rotated_width, config.max_positions, &model)?;
        let sizes = Sizes::new(&config.sizes(), config.max_positions, weights);
        Ok(Self { sizes, embed_in, layers, final_layer_norm, embed_out, rotation })
    }
}

impl LanguageModel for GptNeoX {
    fn embed(&self, ids: &Tensor, _: &Tensor) -> Result<Tensor> {
        self.embed_in.rows(ids, self.sizes.cache.dtype)
    }

    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn layer(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        self.sizes.check_positions(batch)?;
        self.layers[index].forward(index, x, batch, &self.rotation)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.final_layer_norm.forward(x)?;
        let logits = self.embed_out.as_ref().unwrap_or(&self.embed_in).forward(&x)?; // (n, vocabulary)
        Ok(logits.to_dtype(DType::F32)?)
    }
}

struct Layer {
    input_layernorm: LayerNorm,
    attention: Attention,
    post_attention_layernorm: LayerNorm,
    dense_h_to_4h: Linear,
    dense_4h_to_h: Linear,
    /// Whether the feed-forward reads the input of the layer, not the sum with the attention.
    parallel: bool,
}

impl Layer {
    fn new(config: &GptNeoXConfig, weights: &Weights) -> Result<Self> {
        let GptNeoXConfig { width, ffn_width, .. } = *config;
        let norm = |name| LayerNorm::new(width, config.norm_eps as f32, weights.pp(name));
        let mlp = weights.pp("mlp");
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            attention: Attention::new(config, &weights.pp("attention"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            dense_h_to_4h: Linear::load(width, ffn_width, true, mlp.pp("dense_h_to_4h"))?,
            dense_4h_to_h: Linear::load(ffn_width, width, true, mlp.pp("dense_4h_to_h"))?,
            parallel: config.parallel_residual,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, rotation: &Rotation) -> Result<Tensor> {
        let attended = self.attention.forward(index, &self.input_layernorm.forward(x)?, batch, rotation)?;
        let sum = (x + attended)?;
        let input = if self.parallel { x } else { &sum };
        let hidden = self.dense_h_to_4h.forward(&self.post_attention_layernorm.forward(input)?)?;
        Ok((&sum + self.dense_4h_to_h.forward(&Activation::Gelu.forward(&hidden)?)?)?) // (n, d)
    }
}

struct Attention {
    query_key_value: Linear,
    dense: Linear,
    heads: usize,
}

impl Attention {
    fn new(config: &GptNeoXConfig, weights: &Weights) -> Result<Self> {
        let GptNeoXConfig { width, heads, attention_bias, .. } = *config;
        let linear = |d_out, name| Linear::load(width, d_out, attention_bias, weights.pp(name));
        Ok(Self {
            query_key_value: linear(3 * width, "query_key_value")?,
            dense: linear(width, "dense")?,
            heads,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, rotation: &Rotation) -> Result<Tensor> {
        let (n, d) = x.dims2()?;
        let d_head = d / self.heads;
        // The rows of one head are its query, then its key, then its value.
        let qkv = self.query_key_value.forward(x)?.reshape((n, self.heads, 3 * d_head))?.transpose(0, 1)?;
        let part = |i: usize| qkv.narrow(2, i * d_head, d_head); // (h, n, d_head)
        let angles = rotation.at(batch.positions())?;
        let (q, k) = (rotation.rotate(&part(0)?, &angles)?, rotation.rotate(&part(1)?, &angles)?);
        let scale = (d_head as f64).powf(-0.5);
        let out = batch.attend(index, (&q, &k, &part(2)?), scale, &AttentionBias::None)?;
        self.dense.forward(&merge_heads(&out)?) // (n, d)
    }
}

/// Maps the name of a tensor of `GPTNeoXForCausalLM`, which is ours. A tied head that is stored nevertheless must equal the
/// embedding; masks and rotary frequencies of old checkpoints are ignored, because the model computes them.
pub fn hugging_face_name(tied: bool, theirs: &str) -> Rename {
    const BUFFERS: [&str; 3] =
        [".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"];
    match theirs {
        "embed_out.weight" if tied => Rename::To("gpt_neox.embed_in.weight".into()),
        theirs if BUFFERS.iter().any(|buffer| theirs.ends_with(buffer)) => Rename::Ignore,
        theirs => Rename::To(theirs.into()),
    }
}
