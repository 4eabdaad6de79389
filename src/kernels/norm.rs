//! Normalisations in f32 for any input dtype (a mean in bf16 breaks parity with the references).

use candle_core::{D, DType, Tensor};
use candle_nn::{Init, ops};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::weights::Weights;

/// Layer normalisation with gain and, unless it is zero, a bias: (.., d) -> (.., d).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias` of shape (d).
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape.
    pub fn new(d: usize, eps: f32, weights: Weights) -> Result<Self> {
        Self::load(d, eps, true, weights)
    }

    /// Reads `weight` and, with `bias`, `bias` of shape (d); without it the bias is zero.
    ///
    /// # Errors
    /// A tensor is missing or has a wrong shape.
    pub fn load(d: usize, eps: f32, bias: bool, weights: Weights) -> Result<Self> {
        let weight = weights.get(d, "weight", Init::Const(1.0))?;
        let bias = match bias {
            true => weights.get(d, "bias", Init::Const(0.0))?,
            false => Tensor::zeros(d, weights.dtype(), weights.device())?,
        };
        Ok(Self { weight, bias, eps })
    }

    /// Normalises the last axis: (.., d) -> (.., d).
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // candle's fused kernel has no backward pass.
        if x.track_op() || self.weight.track_op() {
            return Ok(ops::layer_norm_slow(x, &self.weight, &self.bias, self.eps)?);
        }
        Ok(ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps)?)
    }
}

/// Root-mean-square normalisation with gain: (.., d) -> (.., d).
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight` of shape (d).
    ///
    /// # Errors
    /// The tensor is missing or has a wrong shape.
    pub fn new(d: usize, eps: f32, weights: Weights) -> Result<Self> {
        Ok(Self { weight: weights.get(d, "weight", Init::Const(1.0))?, eps })
    }

    /// Normalises the last axis: (.., d) -> (.., d).
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.track_op() || self.weight.track_op() {
            return Ok(ops::rms_norm_slow(x, &self.weight, self.eps)?);
        }
        Ok(ops::rms_norm(&x.contiguous()?, &self.weight, self.eps)?)
    }
}

/// Kind of a normalisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Layer normalisation with gain and offset.
    #[default]
    LayerNorm,
    /// Root-mean-square normalisation with gain.
    RmsNorm,
}

/// A normalisation of either kind: (.., d) -> (.., d).
#[derive(Debug, Clone)]
pub enum Norm {
    /// Layer normalisation.
    Layer(LayerNorm),
    /// Root-mean-square normalisation.
    Rms(RmsNorm),
}

impl Norm {
    /// Takes the tensors of the kind, of shape (d).
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(kind: NormKind, d: usize, eps: f32, weights: Weights) -> Result<Self> {
        Ok(match kind {
            NormKind::LayerNorm => Norm::Layer(LayerNorm::new(d, eps, weights)?),
            NormKind::RmsNorm => Norm::Rms(RmsNorm::new(d, eps, weights)?),
        })
    }

    /// Normalises the last axis.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Norm::Layer(norm) => norm.forward(x),
            Norm::Rms(norm) => norm.forward(x),
        }
    }
}

/// Softmax over the last axis, computed in f32 and returned in the dtype of `x`.
///
/// # Errors
/// The tensor library refused an operation.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let p =
        if x.track_op() { ops::softmax(&x, D::Minus1)? } else { ops::softmax_last_dim(&x.contiguous()?)? };
    Ok(p.to_dtype(dtype)?)
}
