//! Llama family (Llama 1 to 3, Mistral, Qwen2, SmolLM, TinyLlama ...): pre-normalised decoder layers with rotary positions,
//! grouped-query attention and a gated feed-forward.
//!
//! Tensor names are those of Hugging Face's `LlamaForCausalLM`.

use candle_core::{DType, Tensor};

use super::rotary::Rotation;
use super::{AttentionBias, LanguageModel, PackedBatch, Sizes};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::{merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::RmsNorm;
use crate::weights::Weights;

pub mod config;

pub use super::rotary::{Rope, RopeScaling, RopeStyle};
pub use config::LlamaConfig;

/// A Llama, dense or quantised.
pub struct Llama {
    sizes: Sizes,
    embed_tokens: Linear,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `None` when the head is the embedding matrix.
    lm_head: Option<Linear>,
    rotation: Rotation,
}

impl Llama {
    /// Takes every tensor of the model from `weights`; the caller finishes the weights.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(config: LlamaConfig, weights: &Weights) -> Result<Self> {
        let (vocabulary, width) = (config.vocabulary, config.width);
        let model = weights.pp("model");
        let rows = vocabulary + config.extra_embeddings;
        let embed_tokens = Linear::embedding(rows, width, &model.pp("embed_tokens"))?;
        let layers = (0..config.layers)
            .map(|i| Layer::new(&config, &model.pp("layers").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm::new(width, config.norm_eps as f32, model.pp("norm"))?;
        let lm_head = match config.tied {
            true => None,
            false => Some(Linear::head(width, vocabulary, &weights.pp("lm_head"))?),
        };
        let rotation = Rotation::new(&config.rope, config.head_width, config.max_positions, &model)?;
        let sizes = Sizes::new(&config.sizes(), config.max_positions, weights);
        Ok(Self { sizes: Sizes { embeddings: rows, ..sizes }, embed_tokens, layers, norm, lm_head, rotation })
    }
}

impl LanguageModel for Llama {
    fn embed(&self, ids: &Tensor, _: &Tensor) -> Result<Tensor> {
        self.embed_tokens.rows(ids, self.sizes.cache.dtype)
    }

    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn layer(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        self.sizes.check_positions(batch)?;
        self.layers[index].forward(index, x, batch, &self.rotation)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(x)?;
        let logits = self.lm_head.as_ref().unwrap_or(&self.embed_tokens).forward(&x)?; // (n, vocabulary)
        Ok(logits.to_dtype(DType::F32)?)
    }
}

struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(config: &LlamaConfig, weights: &Weights) -> Result<Self> {
        let norm = |name| RmsNorm::new(config.width, config.norm_eps as f32, weights.pp(name));
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::new(config, &weights.pp("self_attn"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(config, &weights.pp("mlp"))?,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, rotation: &Rotation) -> Result<Tensor> {
        let x = (x + self.self_attn.forward(index, &self.input_layernorm.forward(x)?, batch, rotation)?)?;
        Ok((&x + self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)?) // (n, d)
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    scale: f64,
}

impl Attention {
    fn new(config: &LlamaConfig, weights: &Weights) -> Result<Self> {
        let LlamaConfig { width, heads, kv_heads, head_width, .. } = *config;
        let from_input = |d_out, name| Linear::load(width, d_out, config.qkv_bias, weights.pp(name));
        Ok(Self {
            q_proj: from_input(heads * head_width, "q_proj")?,
            k_proj: from_input(kv_heads * head_width, "k_proj")?,
            v_proj: from_input(kv_heads * head_width, "v_proj")?,
            o_proj: Linear::new(heads * head_width, width, weights.pp("o_proj"))?,
            heads,
            kv_heads,
            scale: (head_width as f64).powf(-0.5),
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, rotation: &Rotation) -> Result<Tensor> {
        let q = split_heads(&self.q_proj.forward(x)?, self.heads)?; // (h, n, d_head)
        let k = split_heads(&self.k_proj.forward(x)?, self.kv_heads)?; // (h_kv, n, d_head)
        let v = split_heads(&self.v_proj.forward(x)?, self.kv_heads)?;
        let angles = rotation.at(batch.positions())?;
        let (q, k) = (rotation.rotate(&q, &angles)?, rotation.rotate(&k, &angles)?);
        let out = batch.attend(index, (&q, &k, &v), self.scale, &AttentionBias::None)?;
        self.o_proj.forward(&merge_heads(&out)?) // (n, d)
    }
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &LlamaConfig, weights: &Weights) -> Result<Self> {
        let LlamaConfig { width, ffn_width, .. } = *config;
        Ok(Self {
            gate_proj: Linear::new(width, ffn_width, weights.pp("gate_proj"))?,
            up_proj: Linear::new(width, ffn_width, weights.pp("up_proj"))?,
            down_proj: Linear::new(ffn_width, width, weights.pp("down_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = Activation::Silu.forward(&self.gate_proj.forward(x)?)?;
        self.down_proj.forward(&(gate * self.up_proj.forward(x)?)?)
    }
}

#[cfg(test)]
mod tests;
