//! Feed-forward of the resampler and of the gated cross-attention.

use candle_core::Tensor;

use super::config::FeedForwardConfig;
use crate::error::Result;
use crate::kernels::activation::Activation;
use crate::kernels::linear::Linear;
use crate::kernels::norm::Norm;
use crate::weights::Weights;

/// Feed-forward: normalisation, up, activation, down; with a gate: down(activation(gate(x)) * up(x)). (.., d) -> (.., d)
#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    norm: Norm,
    up: Linear,
    gate: Option<Linear>,
    activation: Activation,
    down: Linear,
}

impl FeedForward {
    pub(super) fn new(d: usize, config: &FeedForwardConfig, weights: Weights) -> Result<Self> {
        let linear = |d_in, d_out, name: &str| Linear::load(d_in, d_out, config.bias, weights.pp(name));
        Ok(Self {
            norm: Norm::new(config.norm, d, config.norm_eps, weights.pp("norm"))?,
            up: linear(d, config.hidden, "up")?,
            gate: if config.gated { Some(linear(d, config.hidden, "gate")?) } else { None },
            activation: config.activation,
            down: linear(config.hidden, d, "down")?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(x)?;
        let hidden = match &self.gate {
            None => self.activation.forward(&self.up.forward(&x)?)?,
            Some(gate) => (self.activation.forward(&gate.forward(&x)?)? * self.up.forward(&x)?)?,
        };
        self.down.forward(&hidden)
    }
}
