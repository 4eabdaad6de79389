//! One layer of the vision encoder of Llama 3.2 Vision.

use candle_core::Tensor;
use candle_nn::Init;

use super::TowerConfig;
use crate::error::{Error, Result};
use crate::kernels::activation::Activation;
use crate::kernels::attention::{Kv, attention, merge_heads, split_heads};
use crate::kernels::linear::Linear;
use crate::kernels::norm::LayerNorm;
use crate::weights::Weights;

/// Scores that one block of queries computes, in numbers: 64 MiB in f32, where all 16 x 6432 x 6432 scores would take 2.6 GB.
const MAX_SCORES: usize = 1 << 24;

/// Layer: attention and feed-forward, both after a norm; both gated in a global layer.
pub(super) struct Layer {
    input_norm: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    scale: f64,
    feed_forward_norm: LayerNorm,
    up: Linear,
    down: Linear,
    /// tanh of the gates of attention and feed-forward, (1) each.
    gates: Option<(Tensor, Tensor)>,
}

impl Layer {
    pub(super) fn new(config: &TowerConfig, gated: bool, weights: &Weights) -> Result<Self> {
        let (d, hidden) = (config.width, config.feed_forward_width);
        let norm = |name| LayerNorm::new(d, config.norm_eps as f32, weights.pp(name));
        let projection = |name| Linear::new(d, d, weights.pp("self_attn").pp(name));
        let mlp = weights.pp("mlp");
        let gate = |name| Ok::<_, Error>(weights.get(1, name, Init::Const(0.0))?.tanh()?);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            q: projection("q_proj")?,
            k: projection("k_proj")?,
            v: projection("v_proj")?,
            out: projection("o_proj")?,
            heads: config.heads,
            scale: (config.head_width() as f64).powf(-0.5),
            feed_forward_norm: norm("post_attention_layernorm")?,
            up: Linear::load(d, hidden, true, mlp.pp("fc1"))?,
            down: Linear::load(hidden, d, true, mlp.pp("fc2"))?,
            gates: if gated { Some((gate("gate_attn")?, gate("gate_ffn")?)) } else { None },
        })
    }

    /// x (n, d) -> (n, d). The first `valid` tokens attend to all, the others to the first `valid`.
    pub(super) fn forward(&self, x: &Tensor, valid: usize) -> Result<Tensor> {
        let mut attended = self.attend(&self.input_norm.forward(x)?, valid)?;
        if let Some((gate, _)) = &self.gates {
            attended = attended.broadcast_mul(gate)?;
        }
        let x = (x + attended)?;
        let hidden = self.up.forward(&self.feed_forward_norm.forward(&x)?)?;
        let mut dense = self.down.forward(&Activation::Gelu.forward(&hidden)?)?;
        if let Some((_, gate)) = &self.gates {
            dense = dense.broadcast_mul(gate)?;
        }
        Ok((x + dense)?)
    }

    fn attend(&self, x: &Tensor, valid: usize) -> Result<Tensor> {
        let n = x.dim(0)?;
        let project =
            |linear: &Linear| Ok::<_, Error>(split_heads(&linear.forward(x)?, self.heads)?.contiguous()?);
        let (q, k, v) = (split_heads(&self.q.forward(x)?, self.heads)?, project(&self.k)?, project(&self.v)?);
        let visible: Kv = (k.narrow(1, 0, valid)?, v.narrow(1, 0, valid)?);
        let mut parts = Vec::new();
        for (queries, kv) in [(0..valid, (k, v)), (valid..n, visible)] {
            let block = (MAX_SCORES / (self.heads * kv.0.dim(1)?)).max(1);
            for start in queries.clone().step_by(block) {
                let q = q.narrow(1, start, block.min(queries.end - start))?;
                parts.push(attention(&q, std::slice::from_ref(&kv), self.scale, None)?);
            }
        }
        self.out.forward(&merge_heads(&Tensor::cat(&parts, 1)?)?)
    }
}
