//! 2-D convolution with TensorFlow's SAME padding, grouped, with bias.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, Var};
use rayon::prelude::*;

use crate::error::Result;

/// Convolution of `x` (n, c, h, w) with `weight` (o, c / groups, k, k) and `bias` (o):
/// -> (n, o, ceil(h / stride), ceil(w / stride)).
///
/// SAME padding as TensorFlow has it: what is missing is shared between both sides, and an odd pixel goes to the
/// bottom and the right. On the CPU in f32 this is im2col and a matrix product per image and group, in parallel over
/// both; elsewhere candle's convolution. Differentiable in all three.
pub fn conv2d_same(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    groups: usize,
) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        let op = ConvSame { stride, groups };
        return Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?);
    }
    Ok(generic(x, weight, bias, stride, groups)?)
}

/// (before, output length): the padding in front of an axis and what the convolution makes of the axis.
fn same(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let out = length.div_ceil(stride);
    let missing = ((out - 1) * stride + kernel).saturating_sub(length);
    (missing / 2, out)
}

/// The same convolution in candle's operations, on any device.
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
        let (before, out) = same(length, kernel, stride);
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

/// Sizes of one convolution; `*_g` are per group.
struct Geometry {
    n: usize,
    c_g: usize,
    h: usize,
    w: usize,
    o_g: usize,
    kernel: (usize, usize),
    stride: usize,
    before: (usize, usize),
    out: (usize, usize),
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
        let (n, c, h, w) = x_layout.shape().dims4()?;
        let (o, c_g, kernel_h, kernel_w) = weight_layout.shape().dims4()?;
        if c_g * self.groups != c || o % self.groups != 0 || bias_layout.shape().dims() != [o] {
            candle_core::bail!("convolution of {c} channels by {:?} in {} groups", weight_layout, self.groups)
        }
        let ((top, out_h), (left, out_w)) = (same(h, kernel_h, self.stride), same(w, kernel_w, self.stride));
        let geometry = Geometry {
            n,
            c_g,
            h,
            w,
            o_g: o / self.groups,
            kernel: (kernel_h, kernel_w),
            stride: self.stride,
            before: (top, left),
            out: (out_h, out_w),
        };
        let (x, weight) = (contiguous(x, x_layout)?, contiguous(weight, weight_layout)?);
        let y = convolve(&geometry, self.groups, x, weight, contiguous(bias, bias_layout)?);
        Ok((CpuStorage::F32(y), Shape::from((n, o, out_h, out_w))))
    }

    /// By differentiating the generic form.
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = [x, weight, bias].map(|t| Var::from_tensor(&t.detach()));
        let (x, weight, bias) = (x?, weight?, bias?);
        let y = generic(&x, &weight, &bias, self.stride, self.groups)?;
        let grads = (y * grad.detach())?.sum_all()?.backward()?;
        Ok((grads.get(&x).cloned(), grads.get(&weight).cloned(), grads.get(&bias).cloned()))
    }
}

fn contiguous<'s>(storage: &'s CpuStorage, layout: &Layout) -> candle_core::Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("conv2d-same needs contiguous inputs"),
    }
}

fn convolve(g: &Geometry, groups: usize, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let columns = g.out.0 * g.out.1;
    let depth = g.c_g * g.kernel.0 * g.kernel.1;
    let mut y = vec![0f32; g.n * groups * g.o_g * columns];
    let tasks = g.n * groups;
    let inner = if tasks < rayon::current_num_threads() {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    };
    y.par_chunks_mut(g.o_g * columns).enumerate().for_each_init(Vec::new, |patches, (task, y)| {
        let group = task % groups;
        let x = &x[task * g.c_g * g.h * g.w..][..g.c_g * g.h * g.w];
        let weight = &weight[group * g.o_g * depth..][..g.o_g * depth];
        for (row, &b) in y.chunks_exact_mut(columns).zip(&bias[group * g.o_g..]) {
            row.fill(b);
        }
        if g.kernel == (1, 1) && g.stride == 1 {
            return add_product(y, columns, 0, weight, depth, x, columns, inner);
        }
        // A tile of output rows at a time, so that the patches stay in the cache.
        let tile_rows = (TILE / (depth * g.out.1)).clamp(1, g.out.0);
        for first in (0..g.out.0).step_by(tile_rows) {
            let rows = first..(first + tile_rows).min(g.out.0);
            let width = rows.len() * g.out.1;
            patches.resize(depth * width, 0.0);
            im2col(g, x, rows.clone(), patches);
            add_product(y, columns, first * g.out.1, weight, depth, patches, width, inner);
        }
    });
    y
}

/// Floats of patches that are made before they are multiplied.
const TILE: usize = 1 << 16;

/// The patches of output rows `rows` as a matrix (c_g * k * k, rows * out_w).
fn im2col(g: &Geometry, x: &[f32], rows: std::ops::Range<usize>, patches: &mut [f32]) {
    let (kernel_h, kernel_w) = g.kernel;
    let out_w = g.out.1;
    for (index, line) in patches.chunks_exact_mut(rows.len() * out_w).enumerate() {
        let (channel, ky, kx) =
            (index / (kernel_h * kernel_w), index / kernel_w % kernel_h, index % kernel_w);
        let plane = &x[channel * g.h * g.w..][..g.h * g.w];
        // Output columns whose input column lies inside: 0 <= column * stride + kx - left < w.
        let from = g.before.1.saturating_sub(kx).div_ceil(g.stride).min(out_w);
        let until = (g.w + g.before.1).saturating_sub(kx).div_ceil(g.stride).clamp(from, out_w);
        for (out_row, line) in rows.clone().zip(line.chunks_exact_mut(out_w)) {
            let y = (out_row * g.stride + ky).wrapping_sub(g.before.0);
            if y >= g.h || from == until {
                line.fill(0.0);
                continue;
            }
            line[..from].fill(0.0);
            line[until..].fill(0.0);
            let source = &plane[y * g.w + from * g.stride + kx - g.before.1..(y + 1) * g.w];
            let inside = &mut line[from..until];
            if g.stride == 1 {
                inside.copy_from_slice(&source[..inside.len()]);
            } else {
                inside.iter_mut().zip(source.iter().step_by(g.stride)).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// `y[.., first..first + width] += a b`: `a` (rows, depth), `b` (depth, width), `y` (rows, columns), row-major.
#[allow(unsafe_code, clippy::too_many_arguments)]
fn add_product(
    y: &mut [f32],
    columns: usize,
    first: usize,
    a: &[f32],
    depth: usize,
    b: &[f32],
    width: usize,
    parallelism: gemm::Parallelism,
) {
    let rows = a.len() / depth;
    assert!(a.len() == rows * depth && b.len() == depth * width);
    assert!(y.len() == rows * columns && first + width <= columns);
    // SAFETY: by the two assertions every address below lies inside its slice: a[i * depth + k], b[k * width + j] and
    // y[i * columns + first + j] for i < rows, k < depth, j < width. `y` is borrowed mutably, so it overlaps neither
    // `a` nor `b`, and every float of it is initialised.
    unsafe {
        gemm::gemm(
            rows,
            width,
            depth,
            y.as_mut_ptr().add(first),
            1,
            columns as isize,
            true,
            a.as_ptr(),
            1,
            depth as isize,
            b.as_ptr(),
            1,
            width as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

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
            assert!(distance(fast.get(v).unwrap(), slow.get(v).unwrap()) < 1e-3);
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
    }
}
