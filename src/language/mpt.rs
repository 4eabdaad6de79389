//! MPT of MosaicML: pre-normalised decoder layers with ALiBi, one matrix for queries, keys and values, no biases, and the
//! embedding as output head.
//!
//! Tensor names are those of transformers' `MptForCausalLM` (MPT-7B); [`hugging_face_name`] knows those of `MosaicGPT` (MPT-1B)
//! too. Sources: transformers `models/mpt/modeling_mpt.py`, mosaicml/mpt-1b-redpajama-200b `mosaic_gpt.py`.

use candle_core::{DType, Tensor};

use super::{AttentionBias, LanguageModel, PackedBatch, Sizes};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::{merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::{Rename, Weights};

pub mod config;

pub use config::MptConfig;

/// An MPT, dense or quantised.
pub struct Mpt {
    sizes: Sizes,
    wte: Linear,
    blocks: Vec<Block>,
    norm_f: LayerNorm,
    bias: AttentionBias,
    /// Factor of the logits.
    logit_scale: Option<f64>,
}

impl Mpt {
    /// Takes every tensor of the model from `weights`; the caller finishes the weights.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(config: MptConfig, weights: &Weights) -> Result<Self> {
        let model = weights.pp("transformer");
        let wte = Linear::embedding(config.vocabulary, config.width, &model.pp("wte"))?;
        let blocks = (0..config.layers)
            .map(|i| Block::new(&config, &model.pp("blocks").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let norm_f = LayerNorm::load(config.width, config.norm_eps as f32, false, model.pp("norm_f"))?;
        let bias = AttentionBias::alibi(&config.slopes(), weights.dtype(), weights.device())?;
        let sizes = Sizes::new(&config.sizes(), config.max_positions, weights);
        Ok(Self { sizes, wte, blocks, norm_f, bias, logit_scale: config.logit_scale })
    }
}

impl LanguageModel for Mpt {
    fn embed(&self, ids: &Tensor, _: &Tensor) -> Result<Tensor> {
        self.wte.rows(ids, self.sizes.cache.dtype)
    }

    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn layer(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        self.sizes.check_positions(batch)?;
        self.blocks[index].forward(index, x, batch, &self.bias)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.wte.forward(&self.norm_f.forward(x)?)?.to_dtype(DType::F32)?; // (n, vocabulary)
        match self.logit_scale {
            None => Ok(logits),
            Some(scale) => Ok((logits * scale)?),
        }
    }
}

struct Block {
    norm_1: LayerNorm,
    attn: Attention,
    norm_2: LayerNorm,
    up_proj: Linear,
    down_proj: Linear,
}

impl Block {
    fn new(config: &MptConfig, weights: &Weights) -> Result<Self> {
        let MptConfig { width, ffn_width, .. } = *config;
        let norm = |name| LayerNorm::load(width, config.norm_eps as f32, false, weights.pp(name));
        Ok(Self {
            norm_1: norm("norm_1")?,
            attn: Attention::new(config, &weights.pp("attn"))?,
            norm_2: norm("norm_2")?,
            up_proj: Linear::new(width, ffn_width, weights.pp("ffn").pp("up_proj"))?,
            down_proj: Linear::new(ffn_width, width, weights.pp("ffn").pp("down_proj"))?,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, bias: &AttentionBias) -> Result<Tensor> {
        let x = (x + self.attn.forward(index, &self.norm_1.forward(x)?, batch, bias)?)?;
        let hidden = Activation::Gelu.forward(&self.up_proj.forward(&self.norm_2.forward(&x)?)?)?;
        Ok((x + self.down_proj.forward(&hidden)?)?) // (n, d)
    }
}

struct Attention {
    wqkv: Linear,
    /// Norms of queries and keys over the whole width, before the split into heads.
    qk_norm: Option<(LayerNorm, LayerNorm)>,
    out_proj: Linear,
    heads: usize,
    scale: f64,
    clip: Option<f64>,
}

impl Attention {
    fn new(config: &MptConfig, weights: &Weights) -> Result<Self> {
        let width = config.width;
        let norm = |name| LayerNorm::load(width, config.norm_eps as f32, false, weights.pp(name));
        Ok(Self {
            wqkv: Linear::new(width, 3 * width, weights.pp("Wqkv"))?,
            qk_norm: if config.qk_norm { Some((norm("q_ln")?, norm("k_ln")?)) } else { None },
            out_proj: Linear::new(width, width, weights.pp("out_proj"))?,
            heads: config.heads,
            scale: config.softmax_scale,
            clip: config.clip_qkv,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch, bias: &AttentionBias) -> Result<Tensor> {
        let d = x.dim(1)?;
        let mut qkv = self.wqkv.forward(x)?; // (n, 3 d)
        if let Some(clip) = self.clip {
            qkv = qkv.clamp(-clip, clip)?;
        }
        let part = |i: usize| qkv.narrow(1, i * d, d);
        let (mut q, mut k) = (part(0)?, part(1)?);
        if let Some((q_ln, k_ln)) = &self.qk_norm {
            (q, k) = (q_ln.forward(&q)?, k_ln.forward(&k)?);
        }
        let heads = |x: &Tensor| split_heads(x, self.heads);
        let (q, k, v) = (heads(&q)?, heads(&k)?, heads(&part(2)?)?); // (h, n, d_head)
        let out = batch.attend(index, (&q, &k, &v), self.scale, bias)?;
        self.out_proj.forward(&merge_heads(&out)?) // (n, d)
    }
}

/// Maps the name of a tensor of `MptForCausalLM` or `MosaicGPT` to the former. The head is the embedding.
pub fn hugging_face_name(theirs: &str) -> Rename {
    const IN_BLOCK: [(&str, &str); 4] = [
        ("ln_1.", "norm_1."),
        ("ln_2.", "norm_2."),
        ("mlp.mlp_up.", "ffn.up_proj."),
        ("mlp.mlp_down.", "ffn.down_proj."),
    ];
    match theirs {
        "lm_head.weight" => return Rename::To("transformer.wte.weight".into()),
        "transformer.ln_f.weight" => return Rename::To("transformer.norm_f.weight".into()),
        _ => {}
    }
    let block = || theirs.strip_prefix("transformer.blocks.")?.split_once('.');
    let Some((index, name)) = block() else { return Rename::To(theirs.into()) };
    let renamed = IN_BLOCK.iter().find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)));
    Rename::To(format!("transformer.blocks.{index}.{}", renamed.as_deref().unwrap_or(name)))
}
