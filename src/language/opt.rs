//! OPT: decoder layers with learned positions, biases, and the embedding as output head. Most sizes normalise before each
//! part of a layer; OPT-350m normalises after it, and has an embedding of another width with a map on either side.
//!
//! Tensor names are those of transformers' `OPTForCausalLM` (`models/opt/modeling_opt.py`).

use candle_core::{DType, Tensor};
use candle_nn::Init;

use super::{AttentionBias, LanguageModel, PackedBatch, Sizes};
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::attention::{merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::{Rename, Weights};

pub mod config;

pub use config::OptConfig;

/// Rows of the table of positions before that of the first position; the reference uses them for padding.
const FIRST_POSITION: usize = 2;

/// An OPT, dense or quantised.
pub struct Opt {
    sizes: Sizes,
    embed_tokens: Linear,
    /// Embeddings of the positions: (max_positions, d).
    positions: Tensor,
    /// Maps from and to the width of the embedding, if it is not d.
    projections: Option<(Linear, Linear)>,
    layers: Vec<Layer>,
    final_layer_norm: Option<LayerNorm>,
}

impl Opt {
    /// Takes every tensor of the model from `weights`; the caller finishes the weights.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(config: OptConfig, weights: &Weights) -> Result<Self> {
        let OptConfig { vocabulary, width, embedding_width, max_positions, .. } = config;
        let model = weights.pp("model.decoder");
        let embed_tokens = Linear::embedding(vocabulary, embedding_width, &model.pp("embed_tokens"))?;
        let table = (max_positions + FIRST_POSITION, width);
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        let positions = model.pp("embed_positions").get(table, "weight", init)?;
        let positions = positions.narrow(0, FIRST_POSITION, max_positions)?;
        let projections = match embedding_width == width {
            true => None,
            false => Some((
                Linear::new(embedding_width, width, model.pp("project_in"))?,
                Linear::new(width, embedding_width, model.pp("project_out"))?,
            )),
        };
        let layers = (0..config.layers)
            .map(|i| Layer::new(&config, &model.pp("layers").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let final_layer_norm = match config.final_norm {
            true => Some(LayerNorm::new(width, config.norm_eps as f32, model.pp("final_layer_norm"))?),
            false => None,
        };
        let sizes = Sizes::new(&config.sizes(), max_positions, weights);
        Ok(Self { sizes, embed_tokens, positions, projections, layers, final_layer_norm })
    }
}

impl LanguageModel for Opt {
    fn embed(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let mut x = self.embed_tokens.rows(ids, self.sizes.cache.dtype)?;
        if let Some((project_in, _)) = &self.projections {
            x = project_in.forward(&x)?;
        }
        Ok((x + self.positions.index_select(positions, 0)?)?) // (n, d)
    }

    fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    fn layer(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        self.sizes.check_positions(batch)?;
        self.layers[index].forward(index, x, batch)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = match &self.final_layer_norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        if let Some((_, project_out)) = &self.projections {
            x = project_out.forward(&x)?;
        }
        Ok(self.embed_tokens.forward(&x)?.to_dtype(DType::F32)?) // (n, vocabulary)
    }
}

struct Layer {
    self_attn: Attention,
    self_attn_layer_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_layer_norm: LayerNorm,
    activation: Activation,
    norm_first: bool,
}

impl Layer {
    fn new(config: &OptConfig, weights: &Weights) -> Result<Self> {
        let OptConfig { width, ffn_width, activation, norm_first, .. } = *config;
        let norm = |name| LayerNorm::new(width, config.norm_eps as f32, weights.pp(name));
        Ok(Self {
            self_attn: Attention::new(config, &weights.pp("self_attn"))?,
            self_attn_layer_norm: norm("self_attn_layer_norm")?,
            fc1: Linear::load(width, ffn_width, true, weights.pp("fc1"))?,
            fc2: Linear::load(ffn_width, width, true, weights.pp("fc2"))?,
            final_layer_norm: norm("final_layer_norm")?,
            activation,
            norm_first,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        let attend = |x: &Tensor| self.self_attn.forward(index, x, batch);
        let feed = |x: &Tensor| self.fc2.forward(&self.activation.forward(&self.fc1.forward(x)?)?);
        if self.norm_first {
            let x = (x + attend(&self.self_attn_layer_norm.forward(x)?)?)?;
            return Ok((&x + feed(&self.final_layer_norm.forward(&x)?)?)?); // (n, d)
        }
        let x = self.self_attn_layer_norm.forward(&(x + attend(x)?)?)?;
        self.final_layer_norm.forward(&(&x + feed(&x)?)?) // (n, d)
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(config: &OptConfig, weights: &Weights) -> Result<Self> {
        let linear = |name| Linear::load(config.width, config.width, true, weights.pp(name));
        Ok(Self {
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            out_proj: linear("out_proj")?,
            heads: config.heads,
        })
    }

    fn forward(&self, index: usize, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        let heads = |projection: &Linear| split_heads(&projection.forward(x)?, self.heads);
        let (q, k, v) = (heads(&self.q_proj)?, heads(&self.k_proj)?, heads(&self.v_proj)?); // (h, n, d_head)
        let scale = (q.dim(2)? as f64).powf(-0.5);
        let out = batch.attend(index, (&q, &k, &v), scale, &AttentionBias::None)?;
        self.out_proj.forward(&merge_heads(&out)?) // (n, d)
    }
}

/// Maps the name of a tensor of `OPTForCausalLM`, or of the bare `OPTModel`, to the former. The head is the embedding.
pub fn hugging_face_name(theirs: &str) -> Rename {
    Rename::To(match theirs {
        "lm_head.weight" => "model.decoder.embed_tokens.weight".into(),
        bare if bare.starts_with("decoder.") => format!("model.{bare}"),
        other => other.into(),
    })
}
