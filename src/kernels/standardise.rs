//! Weight standardisation (arXiv 1903.10520): weights of mean 0 with a variance that keeps the variance of
//! the input.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::floats::{contiguous, floats};
use crate::error::Result;

/// Computes (w - mean) / sqrt(var + eps) * gain / sqrt(fan_in) per output channel, in f32: (o, i, k, k),
/// `gain` (o, 1, 1, 1) -> (o, i, k, k). One parallel pass on the CPU, candle's operations elsewhere.
/// Differentiable in both.
///
/// # Errors
/// The number of gains is not o, or the tensor library refused an operation.
pub fn standardise(weight: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    let (flat, gain) = (weight.to_dtype(DType::F32)?, gain.to_dtype(DType::F32)?);
    let y = if weight.device().is_cpu() {
        flat.contiguous()?.apply_op2(&gain.contiguous()?, Standardise { eps })?
    } else {
        generic(&flat, &gain, eps)?
    };
    Ok(y.to_dtype(weight.dtype())?)
}

/// [`standardise`] in candle's operations, on any device.
///
/// # Errors
/// The tensor library refused an operation.
pub fn generic(weight: &Tensor, gain: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    let flat = weight.flatten_from(1)?; // (o, fan_in)
    let fan_in = flat.dim(1)? as f64;
    let centred = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
    let variance = centred.sqr()?.mean_keepdim(1)?; // (o, 1)
    let gain = (gain.reshape(((), 1))? * fan_in.powf(-0.5))?;
    let scale = (gain / (variance + eps)?.sqrt()?)?;
    centred.broadcast_mul(&scale)?.reshape(weight.shape())
}

struct Standardise {
    eps: f64,
}

impl Standardise {
    /// Returns (mean, 1 / sqrt(fan_in * (variance + eps))) of one output channel.
    fn moments(&self, weight: &[f32]) -> (f64, f64) {
        let n = weight.len() as f64;
        let mean = weight.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        let variance = weight.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n;
        (mean, (n * (variance + self.eps)).sqrt().recip())
    }
}

impl CustomOp2 for Standardise {
    fn name(&self) -> &'static str {
        "standardise"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        weight_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (o, fan_in) =
            (weight_layout.dims()[0], weight_layout.shape().elem_count() / weight_layout.dims()[0]);
        if gain_layout.shape().elem_count() != o {
            candle_core::bail!("{gain_layout:?} gains for {o} channels")
        }
        let mut y = contiguous(weight, weight_layout)?.to_vec();
        y.par_chunks_mut(fan_in).zip(contiguous(gain, gain_layout)?).for_each(|(y, &gain)| {
            let (mean, scale) = self.moments(y);
            let (mean, scale) = (mean as f32, (f64::from(gain) * scale) as f32);
            y.iter_mut().for_each(|y| *y = (*y - mean) * scale);
        });
        Ok((CpuStorage::F32(y), weight_layout.shape().clone()))
    }

    /// Gradients. With c = w - mean, s = 1 / sqrt(fan_in * (variance + eps)), y = gain * s * c and the
    /// gradient dy at y, the gradient at the gain is s * sum(dy c), and at w it is gain * s * (dy - mean(dy)
    /// - s^2 * c * sum(dy c)).
    fn bwd(
        &self,
        weight: &Tensor,
        gain: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let fan_in = weight.elem_count() / weight.dim(0)?;
        let grad = grad.contiguous()?;
        let (weights, gains, grad) = (floats(weight)?, floats(gain)?, floats(&grad)?);
        let mut d_weight = vec![0f32; weights.len()];
        let rows = weights.par_chunks(fan_in).zip(grad.par_chunks(fan_in)).zip(&*gains);
        let d_gain: Vec<f32> = rows
            .zip(d_weight.par_chunks_mut(fan_in))
            .map(|(((weight, grad), &gain), d_weight)| {
                let (mean, scale) = self.moments(weight);
                let pairs =
                    || weight.iter().zip(grad).map(|(&w, &grad)| (f64::from(w) - mean, f64::from(grad)));
                let along: f64 = pairs().map(|(centred, grad)| centred * grad).sum();
                let grad_mean = pairs().map(|(_, grad)| grad).sum::<f64>() / fan_in as f64;
                let projection = scale * scale * along;
                for (d_weight, (centred, grad)) in d_weight.iter_mut().zip(pairs()) {
                    *d_weight = (f64::from(gain) * scale * (grad - grad_mean - projection * centred)) as f32;
                }
                (scale * along) as f32
            })
            .collect();
        Ok((
            Some(Tensor::from_vec(d_weight, weight.shape(), weight.device())?),
            Some(Tensor::from_vec(d_gain, gain.shape(), gain.device())?),
        ))
    }
}
