//! `scale * GELU(x)`, GELU by the error function: the activation of NFNets, their gain folded in.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::Result;

/// `scale * x * Phi(x)`, same shape as `x`.
///
/// On the CPU in f32 the error function is a rational approximation (absolute error of `Phi` below 3e-7) that the
/// compiler vectorises; everywhere else it is candle's. Differentiable.
pub fn scaled_gelu(x: &Tensor, scale: f64) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return Ok(x.contiguous()?.apply_op1(ScaledGelu { scale: scale as f32 })?);
    }
    Ok((x.gelu_erf()? * scale)?)
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
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("scaled-gelu needs a contiguous input")
        };
        let x = &storage.as_slice::<f32>()?[start..end];
        let half = 0.5 * self.scale;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            for (y, &v) in y.iter_mut().zip(x) {
                *y = half * v * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// scale * (Phi(x) + x * phi(x)).
    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let cumulative = ((x / std::f64::consts::SQRT_2)?.erf()? * 0.5)?.affine(1.0, 0.5)?;
        let density = ((x.sqr()? * -0.5)?.exp()? * (1.0 / std::f64::consts::TAU.sqrt()))?;
        let slope = ((cumulative + (x * density)?)? * f64::from(self.scale))?;
        Ok(Some((grad * slope)?))
    }
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
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn close_to_the_exact_function() {
        let inputs: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-4).collect();
        let x = Tensor::new(inputs, &Device::Cpu).unwrap();
        let got = scaled_gelu(&x, 1.7).unwrap().to_dtype(DType::F64).unwrap();
        let x = x.to_dtype(DType::F64).unwrap();
        let error = (got - (x.gelu_erf().unwrap() * 1.7).unwrap()).unwrap().abs().unwrap();
        let relative = (error / (x.abs().unwrap() + 1.0).unwrap()).unwrap();
        let worst = relative.max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(worst < 5e-7, "{worst}");
    }

    #[test]
    fn gradient_of_the_exact_function() {
        let x = Var::new(&[-3.1f32, -1.0, -0.2, 0.0, 0.7, 2.5], &Device::Cpu).unwrap();
        let gradient = |y: Tensor| y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
        let got = gradient(scaled_gelu(&x, 1.7).unwrap());
        let want = gradient((x.gelu_erf().unwrap() * 1.7).unwrap());
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-5, "{worst}");
    }
}
