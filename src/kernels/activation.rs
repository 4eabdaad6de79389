//! Activation functions of the model family.

use candle_core::Tensor;
use serde::Deserialize;

use super::gelu::quick_gelu;
use crate::error::Result;

/// Activation function of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// relu(x)^2: Flamingo (section 3.1 and table 4 of its second version).
    SquaredRelu,
    /// GELU by the error function: OpenFlamingo, Otter.
    Gelu,
    /// max(x, 0).
    Relu,
    /// x * sigmoid(x).
    Silu,
    /// x * sigmoid(1.702 x): OpenAI's CLIP.
    QuickGelu,
}

impl Activation {
    /// Applies the function to every element; the shape stays.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::SquaredRelu => x.relu()?.sqr()?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::Relu => x.relu()?,
            Activation::Silu => x.silu()?,
            Activation::QuickGelu => quick_gelu(x)?,
        })
    }
}
