//! The activations of the family.

use candle_core::Tensor;
use serde::Deserialize;

use crate::error::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// relu(x)^2, the paper's (section 3.1 and table 4 of its second version).
    SquaredRelu,
    /// GELU by the error function: OpenFlamingo, Otter.
    Gelu,
    Relu,
    Silu,
}

impl Activation {
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::SquaredRelu => x.relu()?.sqr()?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::Relu => x.relu()?,
            Activation::Silu => x.silu()?,
        })
    }
}
