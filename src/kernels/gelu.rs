//! `scale * GELU(x)` with GELU by the error function, the activation of NFNets with their gain; and CLIP's approximation of
//! GELU by a sigmoid.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::floats::{contiguous, floats, on_cpu_in_f32};
use crate::error::Result;

/// Computes `scale * x * Phi(x)`; the shape stays.
///
/// On the CPU in f32 the error function is a vectorised rational approximation (absolute error of `Phi` below
/// 3e-7). Elsewhere it is candle's. Differentiable.
///
/// # Errors
/// The tensor library refused an operation.
pub fn scaled_gelu(x: &Tensor, scale: f64) -> Result<Tensor> {
    if on_cpu_in_f32(x) {
        return Ok(x.contiguous()?.apply_op1(ScaledGelu { scale: scale as f32 })?);
    }
    generic(x, scale)
}

/// [`scaled_gelu`] in candle's operations, on any device.
fn generic(x: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((x.gelu_erf()? * scale)?)
}

/// Factor of CLIP's approximation of GELU.
const QUICK: f32 = 1.702;

/// Computes `x * sigmoid(1.702 x)`; the shape stays. Differentiable.
///
/// On the CPU in f32 the sigmoid is a vectorised series (relative error below 1e-6), without gradient. Elsewhere it is candle's.
///
/// # Errors
/// The tensor library refused an operation.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if on_cpu_in_f32(x) && !x.track_op() {
        return Ok(x.contiguous()?.apply_op1_no_bwd(&QuickGelu)?);
    }
    Ok((x * candle_nn::ops::sigmoid(&(x * f64::from(QUICK))?)?)?)
}

struct QuickGelu;

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            for (y, &v) in y.iter_mut().zip(x) {
                let small = exp(-QUICK * v.abs());
                // sigmoid(a) is 1 / (1 + e^-a) = e^a / (1 + e^a); the exponent that is not positive cannot overflow.
                *y = v * if v < 0.0 { small } else { 1.0 } / (1.0 + small);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

/// Floats per parallel task.
const CHUNK: usize = 1 << 15;

struct ScaledGelu {
    scale: f32,
}

impl CustomOp1 for ScaledGelu {
    fn name(&self) -> &'static str {
        "scaled-gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let half = 0.5 * self.scale;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            for (y, &v) in y.iter_mut().zip(x) {
                *y = half * v * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// Gradient: grad * scale * (Phi(x) + x * phi(x)).
    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (inputs, grad) = (floats(x)?, floats(&grad)?);
        let mut dx = vec![0f32; inputs.len()];
        let chunks = inputs.par_chunks(CHUNK).zip(grad.par_chunks(CHUNK));
        dx.par_chunks_mut(CHUNK).zip(chunks).for_each(|(dx, (x, grad))| {
            for (dx, (&v, &grad)) in dx.iter_mut().zip(x.iter().zip(grad)) {
                let cumulative = 0.5 + 0.5 * erf(v * std::f32::consts::FRAC_1_SQRT_2);
                let density = FRAC_1_SQRT_TAU * exp(-0.5 * v * v);
                *dx = grad * self.scale * (cumulative + v * density);
            }
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// e^x for x <= 0, computed as 2^n * e^r with r in +-ln(2) / 2 and e^r by its series.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding this constant rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2) in two parts: multiples of the first are exact (Cody and Waite).
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = x.max(-87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// Odd rational approximation of erf on [-4, 4], constant outside (Eigen's coefficients).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let mut p = -2.726_142_3e-10_f32;
    for c in [2.770_681_4e-8, -2.101_024_e-6, -5.692_506_4e-5, -7.349_906_4e-4, -2.954_6e-3, -1.609_603_3e-2]
    {
        p = p * z + c;
    }
    let mut q = -1.456_607_2e-5_f32;
    for c in [-2.133_740_5e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2] {
        q = q * z + c;
    }
    x * p / q
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn approximates_exact_function() {
        let inputs: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-4).collect();
        let x = Tensor::new(inputs, &Device::Cpu).unwrap();
        let got = scaled_gelu(&x, 1.7).unwrap().to_dtype(DType::F64).unwrap();
        let x = x.to_dtype(DType::F64).unwrap();
        let error = (got - (x.gelu_erf().unwrap() * 1.7).unwrap()).unwrap().abs().unwrap();
        let relative = (error / (x.abs().unwrap() + 1.0).unwrap()).unwrap();
        let worst = relative.max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(worst < 5e-7, "{worst}");
    }

    /// The implementation for other devices, in f32 and in half precision.
    #[test]
    fn cpu_kernel_equals_generic() {
        let inputs: Vec<f32> = (-7_000..7_000).map(|i| i as f32 * 1e-3).collect();
        let x = Tensor::new(inputs, &Device::Cpu).unwrap();
        let wanted = scaled_gelu(&x, 1.7).unwrap();
        let scale = (x.abs().unwrap() + 1.0).unwrap();
        for (dtype, allowed) in [(DType::F32, 1e-6), (DType::F16, 2e-3), (DType::BF16, 2e-2)] {
            let got = generic(&x.to_dtype(dtype).unwrap(), 1.7).unwrap();
            assert_eq!(got.dtype(), dtype);
            let error = (got.to_dtype(DType::F32).unwrap() - &wanted).unwrap().abs().unwrap();
            let worst = (error / &scale).unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < allowed, "{dtype:?}: {worst}");
        }
    }

    #[test]
    fn quick_gelu_equals_candle() {
        let inputs: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-3).collect();
        let x = Tensor::new(inputs, &Device::Cpu).unwrap();
        let got = quick_gelu(&x).unwrap().to_dtype(DType::F64).unwrap();
        let want = quick_gelu(&x.to_dtype(DType::F64).unwrap()).unwrap();
        let error = ((got - &want).unwrap().abs().unwrap() / (want.abs().unwrap() + 1e-6).unwrap()).unwrap();
        let worst = error.max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(worst < 2e-6, "{worst}");
        let tracked = quick_gelu(Var::from_tensor(&x).unwrap().as_tensor()).unwrap();
        assert!(tracked.track_op());
    }

    #[test]
    fn gradient_approximates_exact_gradient() {
        let inputs: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 1e-3).collect();
        let x = Var::new(inputs, &Device::Cpu).unwrap();
        let gradient = |y: Tensor| y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
        let got = gradient(scaled_gelu(&x, 1.7).unwrap());
        let exact = x.to_dtype(DType::F64).unwrap().gelu_erf().unwrap();
        let want = gradient((exact * 1.7).unwrap());
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 3e-6, "{worst}");
    }
}
