//! Pooling and gating of the planes (h, w) of grids (n, c, h, w). In candle each of them is a chain of
//! single-threaded passes, and their gradients are slower still. Here each is one parallel pass on the CPU in
//! f32, and candle's operations elsewhere.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::floats::{contiguous, dot, floats, on_cpu_in_f32, sum};
use crate::error::Result;

/// Least number of floats of a parallel task.
const MIN_TASK: usize = 1 << 13;

/// Global average pooling, the mean of every plane: (n, c, h, w) -> (n, c, 1, 1). Differentiable.
///
/// # Errors
/// The tensor library refused an operation.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    if on_cpu_in_f32(x) {
        return Ok(x.contiguous()?.apply_op1(GlobalAveragePool)?);
    }
    generic_global_average_pool(x)
}

/// Computes half-precision means in f32, because sums of a few thousand pixels in f16 lose too much
/// precision.
fn generic_global_average_pool(x: &Tensor) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let mean = x.to_dtype(wide)?.flatten_from(2)?.mean(D::Minus1)?;
    Ok(mean.to_dtype(x.dtype())?.unsqueeze(2)?.unsqueeze(3)?)
}

struct GlobalAveragePool;

impl CustomOp1 for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global-average-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let planes = contiguous(x, layout)?.par_chunks(h * w).with_min_len(MIN_TASK / (h * w) + 1);
        let y = planes.map(|plane| sum(plane) / (h * w) as f32).collect();
        Ok((CpuStorage::F32(y), Shape::from((n, c, 1, 1))))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let grad = grad.contiguous()?;
        let grad = floats(&grad)?;
        let mut dx = vec![0f32; x.elem_count()];
        let planes = dx.par_chunks_mut(h * w).with_min_len(MIN_TASK / (h * w) + 1);
        planes.zip(&*grad).for_each(|(dx, grad)| dx.fill(grad / (h * w) as f32));
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Computes `y * gate + shortcut`: (n, c, h, w), one gate per plane (n, c, 1, 1), (n, c, h, w) -> (n, c, h,
/// w). Differentiable.
///
/// # Errors
/// The shapes do not fit together, or the tensor library refused an operation.
pub fn gated_sum(y: &Tensor, gate: &Tensor, shortcut: &Tensor) -> Result<Tensor> {
    if on_cpu_in_f32(y) {
        return Ok(y.contiguous()?.apply_op3(&gate.contiguous()?, &shortcut.contiguous()?, GatedSum)?);
    }
    generic_gated_sum(y, gate, shortcut)
}

fn generic_gated_sum(y: &Tensor, gate: &Tensor, shortcut: &Tensor) -> Result<Tensor> {
    Ok((y.broadcast_mul(gate)? + shortcut)?)
}

struct GatedSum;

impl CustomOp3 for GatedSum {
    fn name(&self) -> &'static str {
        "gated-sum"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
        shortcut: &CpuStorage,
        shortcut_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = y_layout.shape().dims4()?;
        if gate_layout.dims() != [n, c, 1, 1] || shortcut_layout.shape() != y_layout.shape() {
            candle_core::bail!("gated-sum of {y_layout:?}, {gate_layout:?} and {shortcut_layout:?}")
        }
        let mut sum = contiguous(shortcut, shortcut_layout)?.to_vec();
        let planes = contiguous(y, y_layout)?.par_chunks(h * w).zip(contiguous(gate, gate_layout)?);
        let tasks = sum.par_chunks_mut(h * w).zip(planes).with_min_len(MIN_TASK / (h * w) + 1);
        tasks.for_each(|(sum, (y, gate))| {
            sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += y * gate);
        });
        Ok((CpuStorage::F32(sum), y_layout.shape().clone()))
    }

    fn bwd(
        &self,
        y: &Tensor,
        gate: &Tensor,
        shortcut: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, _, h, w) = y.dims4()?;
        let d_shortcut = grad.contiguous()?;
        let (grad, gates, inputs) = (floats(&d_shortcut)?, floats(gate)?, floats(y)?);
        let of_planes = || grad.par_chunks(h * w).with_min_len(MIN_TASK / (h * w) + 1);
        let d_gate: Vec<f32> =
            of_planes().zip(inputs.par_chunks(h * w)).map(|(grad, y)| dot(grad, y)).collect();
        let mut dy = vec![0f32; inputs.len()];
        dy.par_chunks_mut(h * w).zip(of_planes()).zip(&*gates).for_each(|((dy, grad), gate)| {
            dy.iter_mut().zip(grad).for_each(|(dy, grad)| *dy = grad * gate);
        });
        let dy = y.track_op().then(|| Tensor::from_vec(dy, y.shape(), y.device())).transpose()?;
        let d_gate =
            gate.track_op().then(|| Tensor::from_vec(d_gate, gate.shape(), gate.device())).transpose()?;
        Ok((dy, d_gate, shortcut.track_op().then(|| d_shortcut.clone())))
    }
}

/// 2x2 average pooling: (n, c, h, w) -> (n, c, ceil(h / 2), ceil(w / 2)). Pixels beyond an odd edge are not
/// counted. Differentiable.
///
/// # Errors
/// The tensor library refused an operation.
pub fn average_pool_2x2(x: &Tensor) -> Result<Tensor> {
    if on_cpu_in_f32(x) {
        return Ok(x.contiguous()?.apply_op1(AveragePool2x2)?);
    }
    generic_average_pool_2x2(x)
}

fn generic_average_pool_2x2(x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in [2, 3] {
        if x.dim(axis)? % 2 == 1 {
            // With a repeated edge the average equals that of the existing pixels.
            x = x.pad_with_same(axis, 0, 1)?;
        }
    }
    Ok(x.avg_pool2d(2)?)
}

struct AveragePool2x2;

impl AveragePool2x2 {
    /// Calls `visit(small, large)` with the index of every average and the four indices of its pixels. An odd
    /// edge is repeated.
    fn squares(h: usize, w: usize, mut visit: impl FnMut(usize, [usize; 4])) {
        let mut small = 0;
        for y in (0..h).step_by(2) {
            let (above, below) = (y * w, (y + 1).min(h - 1) * w);
            for x in (0..w).step_by(2) {
                let right = (x + 1).min(w - 1);
                visit(small, [above + x, above + right, below + x, below + right]);
                small += 1;
            }
        }
    }
}

impl CustomOp1 for AveragePool2x2 {
    fn name(&self) -> &'static str {
        "average-pool-2x2"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let (half_h, half_w) = (h.div_ceil(2), w.div_ceil(2));
        let mut y = vec![0f32; n * c * half_h * half_w];
        let planes = y.par_chunks_mut(half_h * half_w).zip(contiguous(x, layout)?.par_chunks(h * w));
        planes.with_min_len(MIN_TASK / (h * w) + 1).for_each(|(y, x)| {
            Self::squares(h, w, |small, large| y[small] = large.iter().map(|&i| x[i]).sum::<f32>() * 0.25);
        });
        Ok((CpuStorage::F32(y), Shape::from((n, c, half_h, half_w))))
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let ((_, _, h, w), (_, _, half_h, half_w)) = (x.dims4()?, res.dims4()?);
        let grad = grad.contiguous()?;
        let grad = floats(&grad)?;
        let mut dx = vec![0f32; x.elem_count()];
        let planes = dx.par_chunks_mut(h * w).zip(grad.par_chunks(half_h * half_w));
        planes.with_min_len(MIN_TASK / (h * w) + 1).for_each(|(dx, grad)| {
            Self::squares(h, w, |small, large| large.iter().for_each(|&i| dx[i] += 0.25 * grad[small]));
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests;
