//! Products with constant dense matrices on the CPU, stored in panels.
//!
//! A checkpoint stores a matrix row by row, (d_out, d_in). gemm multiplies panels of d_out, and copies the whole matrix
//! into that layout before each product, on one thread. For the few activation rows of a decode step or a prompt, the
//! copy takes longer than the product (docs/building.md has the figures), so it is made once here.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::floats::{contiguous, floats};
use super::product::{MatrixView, add_product};

/// Outputs per panel: two AVX-512 registers, the width of gemm's panels.
const PANEL: usize = 32;
/// Multiplications of a product below which one thread is faster than several.
const MIN_PARALLEL: usize = 1 << 18;
/// Tasks per thread: more than one, so that a thread that is interrupted does not delay the others.
const TASKS_PER_THREAD: usize = 4;

/// Constant matrix (d_out, d_in) in panels: panel i is the row-major matrix (d_in, 32) of the outputs from 32 i on.
#[derive(Debug, Clone)]
pub struct PanelMatrix {
    panels: Arc<[f32]>,
    d_out: usize,
    d_in: usize,
}

impl PanelMatrix {
    /// Copies a matrix (d_out, d_in) in f32 on the CPU.
    ///
    /// # Errors
    /// The tensor is not such a matrix.
    pub fn new(matrix: &Tensor) -> candle_core::Result<Self> {
        let (d_out, d_in) = matrix.dims2()?;
        let matrix = matrix.contiguous()?;
        let rows = floats(&matrix)?;
        let mut panels = vec![0f32; rows.len()];
        panels.par_chunks_mut(PANEL * d_in).zip(rows.par_chunks(PANEL * d_in)).for_each(|(panel, rows)| {
            copy_transposed(rows, d_in, panel);
        });
        Ok(Self { panels: panels.into(), d_out, d_in })
    }

    /// Multiplies x (.., d_in) -> (.., d_out). Differentiable in `x`.
    ///
    /// # Errors
    /// The last axis of `x` is not d_in, or `x` is not in f32 on the CPU.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if x.dim(D::Minus1)? != self.d_in {
            candle_core::bail!("a matrix with {} inputs cannot multiply {:?}", self.d_in, x.shape());
        }
        x.contiguous()?.apply_op1(self.clone())
    }

    /// Returns the rows `ids` of the matrix: (n) -> (n, d_in).
    ///
    /// # Errors
    /// An id is beyond the rows of the matrix.
    pub fn rows(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let mut rows: Vec<f32> = Vec::with_capacity(ids.len() * self.d_in);
        for &id in &ids {
            let id = id as usize;
            if id >= self.d_out {
                candle_core::bail!("row {id} of a matrix with {} rows", self.d_out);
            }
            let panel = self.panel(id / PANEL);
            let width = panel.len() / self.d_in;
            rows.extend(panel.iter().skip(id % PANEL).step_by(width));
        }
        Tensor::from_vec(rows, (ids.len(), self.d_in), &Device::Cpu)
    }

    fn panel(&self, index: usize) -> &[f32] {
        let first = index * PANEL * self.d_in;
        &self.panels[first..self.panels.len().min(first + PANEL * self.d_in)]
    }

    /// Multiplies `x` (n, d_in) -> panels of y, each (n, 32) row-major.
    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let n = x.len() / self.d_in;
        let x = MatrixView::new(x, (n, self.d_in), self.d_in);
        let mut y = vec![0f32; n * self.d_out];
        let tasks = match n * self.panels.len() {
            0..MIN_PARALLEL => 1,
            _ => TASKS_PER_THREAD * rayon::current_num_threads(),
        };
        let panels_per_task = self.d_out.div_ceil(PANEL).div_ceil(tasks);
        y.par_chunks_mut(PANEL * n).with_min_len(panels_per_task).enumerate().for_each(|(i, y)| {
            let (panel, width) = (self.panel(i), y.len() / n);
            let panel = MatrixView::new(panel, (self.d_in, width), width);
            add_product(y, width, x, panel, Parallelism::None);
        });
        y
    }

    /// Joins panels of y, each (n, 32), to y (n, d_out).
    fn join(&self, panels: Vec<f32>) -> Vec<f32> {
        let n = panels.len() / self.d_out;
        if n == 1 || self.d_out <= PANEL {
            return panels;
        }
        let mut joined = vec![0f32; panels.len()];
        joined.par_chunks_mut(self.d_out).with_min_len(PANEL).enumerate().for_each(|(row, joined)| {
            for (i, part) in joined.chunks_mut(PANEL).enumerate() {
                let first = i * PANEL * n + row * part.len();
                part.copy_from_slice(&panels[first..first + part.len()]);
            }
        });
        joined
    }
}

impl CustomOp1 for PanelMatrix {
    fn name(&self) -> &'static str {
        "panel-matmul"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let mut shape = layout.dims().to_vec();
        shape[layout.dims().len() - 1] = self.d_out;
        let y = if x.is_empty() { Vec::new() } else { self.join(self.multiply(x)) };
        Ok((CpuStorage::F32(y), shape.into()))
    }

    /// Gradient: grad @ matrix. The matrix is unpacked for it, which is little next to the product with the many rows of
    /// a training batch.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut rows = vec![0f32; self.panels.len()];
        rows.par_chunks_mut(PANEL * self.d_in).enumerate().for_each(|(i, rows)| {
            let panel = self.panel(i);
            copy_transposed(panel, panel.len() / self.d_in, rows);
        });
        let matrix = Tensor::from_vec(rows, (self.d_out, self.d_in), &Device::Cpu)?;
        let grad = grad.reshape(((), self.d_out))?.matmul(&matrix)?;
        Ok(Some(grad.reshape(x.shape())?))
    }
}

/// Writes the transposed of the row-major `matrix`, whose rows have `columns` floats.
fn copy_transposed(matrix: &[f32], columns: usize, transposed: &mut [f32]) {
    /// Columns whose cache lines stay in the cache while all rows are read.
    const BLOCK: usize = 64;
    let rows = matrix.len() / columns;
    for first in (0..columns).step_by(BLOCK) {
        for (i, row) in matrix.chunks_exact(columns).enumerate() {
            for (j, &value) in row.iter().enumerate().skip(first).take(BLOCK) {
                transposed[j * rows + i] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn products_rows_and_gradients_equal_those_of_the_dense_matrix() {
        for (n, d_out, d_in) in
            [(1, 1, 1), (1, 97, 70), (3, 32, 31), (5, 64, 33), (7, 95, 256), (300, 33, 40)]
        {
            let what = format!("{n} x ({d_out}, {d_in})");
            let matrix = Tensor::randn(0f32, 1.0, (d_out, d_in), &Device::Cpu).unwrap();
            let panels = PanelMatrix::new(&matrix).unwrap();
            let x = Var::randn(0f32, 1.0, (n, d_in), &Device::Cpu).unwrap();
            let (y, expected) = (panels.forward(&x).unwrap(), x.matmul(&matrix.t().unwrap()).unwrap());
            assert!(distance(&y, &expected) < 1e-4, "{what}");
            let gradient = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let (got, wanted) = (gradient(&y), gradient(&expected));
            assert!(distance(got.get(&x).unwrap(), wanted.get(&x).unwrap()) < 1e-1, "{what}");
            let ids = Tensor::new(&[d_out as u32 - 1, 0, d_out as u32 / 2], &Device::Cpu).unwrap();
            let rows = panels.rows(&ids).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(rows, matrix.index_select(&ids, 0).unwrap().to_vec2::<f32>().unwrap(), "{what}");
        }
    }

    #[test]
    fn rejects_other_widths_and_unknown_rows() {
        let panels =
            PanelMatrix::new(&Tensor::zeros((40, 6), candle_core::DType::F32, &Device::Cpu).unwrap())
                .unwrap();
        let x = Tensor::zeros((6, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(panels.forward(&x).is_err());
        assert!(panels.rows(&Tensor::new(&[40u32], &Device::Cpu).unwrap()).is_err());
    }
}
