//! Projections to keys and values, of the resampler and of the gated cross-attention.

use candle_core::{D, Tensor};

use super::config::KvProjectionKind;
use crate::error::Result;
use crate::kernels::linear::Linear;
use crate::weights::Weights;

/// Projections to keys and values.
#[derive(Debug, Clone)]
pub(super) enum KvProjection {
    Fused(Linear),
    Separate { to_k: Linear, to_v: Linear },
}

impl KvProjection {
    /// Takes `to_kv`, or `to_k` and `to_v`, from `weights`: maps from width `d` to keys and values of width `inner` each.
    pub(super) fn new(
        kind: KvProjectionKind,
        d: usize,
        inner: usize,
        bias: bool,
        weights: &Weights,
    ) -> Result<Self> {
        let linear = |d_out, name: &str| Linear::load(d, d_out, bias, weights.pp(name));
        Ok(match kind {
            KvProjectionKind::Fused => Self::Fused(linear(2 * inner, "to_kv")?),
            KvProjectionKind::Separate => {
                Self::Separate { to_k: linear(inner, "to_k")?, to_v: linear(inner, "to_v")? }
            }
        })
    }

    /// x (.., d) -> keys and values (.., h * d_head) each.
    pub(super) fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Fused(to_kv) => {
                let kv = to_kv.forward(x)?;
                let inner = kv.dim(D::Minus1)? / 2;
                Ok((kv.narrow(D::Minus1, 0, inner)?, kv.narrow(D::Minus1, inner, inner)?))
            }
            Self::Separate { to_k, to_v } => Ok((to_k.forward(x)?, to_v.forward(x)?)),
        }
    }
}
