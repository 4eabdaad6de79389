//! 2-D convolution with TensorFlow's SAME padding, grouped, with bias.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::floats::{contiguous, floats, on_cpu_in_f32};
use super::product::{MatrixView, add_product};
use crate::error::Result;
use backward::{bias_gradient, input_gradient, weight_gradient};
use patches::{Geometry, same_padding};

mod patches;
mod backward;

/// Convolves `x` (n, c, h, w) with `weight` (o, c / groups, k, k) and `bias` (o):
/// -> (n, o, ceil(h / stride), ceil(w / stride)).
///
/// TensorFlow's SAME padding: the padding is divided between both sides, and an odd pixel goes to the bottom
/// and the right. On the CPU in f32 the forward and backward passes are im2col and one matrix product per
/// image and group, in parallel over both. Elsewhere they are candle's convolution. Differentiable in all
/// three inputs.
///
/// # Errors
/// The shapes do not fit together, or the tensor library refused an operation.
pub fn conv2d_same(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    groups: usize,
) -> Result<Tensor> {
    if on_cpu_in_f32(x) {
        let op = ConvSame { stride, groups };
        return Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?);
    }
    Ok(generic(x, weight, bias, stride, groups)?)
}

/// [`conv2d_same`] in candle's operations, on any device.
///
/// # Errors
/// The tensor library refused an operation.
pub fn generic(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    groups: usize,
) -> candle_core::Result<Tensor> {
    let (kernel_h, kernel_w) = (weight.dim(2)?, weight.dim(3)?);
    let mut x = x.clone();
    for (axis, kernel) in [(2, kernel_h), (3, kernel_w)] {
        let length = x.dim(axis)?;
        let (before, out) = same_padding(length, kernel, stride);
        let after = ((out - 1) * stride + kernel).saturating_sub(length + before);
        x = x.pad_with_zeros(axis, before, after)?;
    }
    let y = x.conv2d(weight, 0, stride, 1, groups)?;
    y.broadcast_add(&bias.reshape((1, (), 1, 1))?)
}

struct ConvSame {
    stride: usize,
    groups: usize,
}

impl CustomOp3 for ConvSame {
    fn name(&self) -> &'static str {
        "conv2d-same"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x_dims, weight_dims) = (x_layout.shape().dims4()?, weight_layout.shape().dims4()?);
        let g = Geometry::new(x_dims, weight_dims, self.stride, self.groups)?;
        let o = weight_dims.0;
        if bias_layout.shape().dims() != [o] {
            candle_core::bail!("convolution with {o} outputs and a bias {:?}", bias_layout.shape())
        }
        let (x, weight) = (contiguous(x, x_layout)?, contiguous(weight, weight_layout)?);
        let y = convolve(&g, x, weight, contiguous(bias, bias_layout)?);
        Ok((CpuStorage::F32(y), Shape::from((g.n, o, g.out.0, g.out.1))))
    }

    /// Computes only the gradients that are needed: pixels and frozen weights need none.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = Geometry::new(x.dims4()?, weight.dims4()?, self.stride, self.groups)?;
        let grad = grad.contiguous()?;
        let grad = floats(&grad)?;
        let gradient = |of: &Tensor, make: &dyn Fn() -> candle_core::Result<Vec<f32>>| {
            of.track_op().then(|| Tensor::from_vec(make()?, of.shape(), of.device())).transpose()
        };
        Ok((
            gradient(x, &|| Ok(input_gradient(&g, &floats(weight)?, &grad)))?,
            gradient(weight, &|| Ok(weight_gradient(&g, &floats(x)?, &grad)))?,
            gradient(bias, &|| Ok(bias_gradient(&g, &grad)))?,
        ))
    }
}

fn convolve(g: &Geometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (columns, depth) = (g.columns(), g.depth());
    let tasks = g.n * g.groups;
    let mut y = vec![0f32; tasks * g.o_g * columns];
    let inner = if tasks < rayon::current_num_threads() {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    };
    y.par_chunks_mut(g.o_g * columns).enumerate().for_each_init(Vec::new, |patches, (task, y)| {
        let group = task % g.groups;
        let x = &x[task * g.input()..][..g.input()];
        let weight = MatrixView::new(&weight[group * g.o_g * depth..], (g.o_g, depth), depth);
        for (row, &b) in y.chunks_exact_mut(columns).zip(&bias[group * g.o_g..]) {
            row.fill(b);
        }
        if g.pointwise() {
            return add_product(y, columns, weight, MatrixView::new(x, (depth, columns), columns), inner);
        }
        for first in (0..g.out.0).step_by(g.tile_rows()) {
            let rows = first..(first + g.tile_rows()).min(g.out.0);
            let width = rows.len() * g.out.1;
            patches.resize(depth * width, 0.0);
            g.im2col(x, rows, patches, width, 0);
            let patches = MatrixView::new(patches, (depth, width), width);
            add_product(&mut y[first * g.out.1..], columns, weight, patches, inner);
        }
    });
    y
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn random(shape: impl Into<Shape>) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    /// Forward and all three gradients against candle's convolution.
    fn check(x: [usize; 4], weight: [usize; 4], stride: usize, groups: usize) {
        let [x, weight, bias] =
            [random(&x), random(&weight), random(weight[0])].map(|t| Var::from_tensor(&t).unwrap());
        let fast = conv2d_same(&x, &weight, &bias, stride, groups).unwrap();
        let slow = generic(&x, &weight, &bias, stride, groups).unwrap();
        assert_eq!(fast.dims(), slow.dims());
        assert!(distance(&fast, &slow) < 1e-4);
        let up = random(fast.shape());
        let gradients = |y: Tensor| (y * &up).unwrap().sum_all().unwrap().backward().unwrap();
        let (fast, slow) = (gradients(fast), gradients(slow));
        for v in [&x, &weight, &bias] {
            let (fast, slow) = (fast.get(v).unwrap(), slow.get(v).unwrap());
            // Sums of up to 22,270 numbers, which the two implementations add in different orders.
            let scale = distance(slow, &slow.zeros_like().unwrap()).max(1.0);
            assert!(distance(fast, slow) < 1e-4 * scale);
        }
    }

    #[test]
    fn equals_candle() {
        check([2, 3, 13, 10], [5, 3, 3, 3], 1, 1);
        check([2, 3, 13, 10], [4, 3, 3, 3], 2, 1);
        check([1, 6, 8, 7], [9, 2, 3, 3], 1, 3);
        check([3, 8, 9, 6], [4, 4, 3, 3], 2, 2);
        check([3, 7, 5, 4], [6, 7, 1, 1], 1, 1);
        check([1, 4, 1, 1], [4, 4, 3, 3], 2, 1);
        check([1, 2, 170, 131], [3, 2, 3, 3], 1, 1);
        check([9, 4, 3, 5], [6, 2, 3, 3], 1, 2);
        check([5, 8, 37, 41], [6, 8, 1, 1], 1, 1);
        check([3, 40, 33, 35], [4, 40, 1, 1], 1, 1);
        check([2, 5, 66, 31], [7, 5, 5, 3], 2, 1);
    }

    #[test]
    fn gradient_is_independent_of_thread_count() {
        let [x, weight, bias] =
            [random((7, 6, 11, 9)), random((4, 3, 3, 3)), random(4)].map(|t| Var::from_tensor(&t).unwrap());
        let gradient = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = conv2d_same(&x, &weight, &bias, 1, 2).unwrap();
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                gradients.get(&weight).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            })
        };
        assert_eq!(gradient(1), gradient(3));
    }

    #[test]
    fn frozen_inputs_get_no_gradient() {
        let (pixels, weight) = (random((2, 3, 5, 4)), Var::from_tensor(&random((6, 3, 3, 3))).unwrap());
        let y = conv2d_same(&pixels, &weight, &random(6), 1, 1).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&pixels).is_none() && gradients.get(&weight).is_some());
    }
}
