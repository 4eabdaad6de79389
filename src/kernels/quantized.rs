//! Products with quantised matrices on the CPU. Activations stay in f32.
//!
//! candle also quantises the activations, waits with a spin loop in its own thread pool, and has no vector
//! kernel for some formats. Here a block of weights is unpacked into registers and multiplied with up to eight
//! rows of activations at once, so a decode step unpacks the matrix once for all beams. For more rows, as in a
//! prompt, tiles of the matrix are unpacked and multiplied with an ordinary matrix product.

use bytes::Bytes;
use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;
use wide::f32x8;

use super::floats::floats;
use super::product::{MatrixView, add_product, transpose};
use crate::error::{Error, Result};
use crate::weights::Packed;
use formats::{BLOCK, Bf16, BlockFormat, LANES, Q4_0, Q4_1, Q4K, Q8_0, UnpackedBlock, Vectors};

mod formats;

/// Largest number of activation rows for which dot products are faster than a matrix product of unpacked
/// weights. Their sums are the lanes of one vector.
const MAX_DOT_PRODUCT_ROWS: usize = LANES;
/// Rows of weights that one task multiplies.
const ROWS_PER_TASK: usize = 32;
/// Largest number of activation rows for which one product per core, in its cache, is faster than one on all
/// cores.
const MAX_PER_CORE_ROWS: usize = 96;
/// Values in the widest vector of `gemm`.
const GEMM_LANES: usize = 16;
/// Unpacked weights of a tile of one core: 256 KiB.
const CORE_TILE: usize = 1 << 16;
/// Unpacked weights of a tile of all cores: 16 MiB.
const SHARED_TILE: usize = 1 << 22;

/// Quantised matrix (n, d) in blocks of 32 weights along d, in the layout of a GGUF file. Q4_K groups eight blocks.
#[derive(Debug, Clone)]
pub struct BlockMatrix {
    format: Format,
    bytes: Bytes,
    rows: usize,
    columns: usize,
}

/// Supported formats; each has a [`BlockFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Q4_0,
    Q4_1,
    Q4K,
    Q8_0,
    Bf16,
}

impl BlockMatrix {
    /// Wraps a matrix on the CPU in a supported format, without copying it. Returns `None` for any other
    /// device or format, or if the rows do not divide into blocks.
    ///
    /// # Errors
    /// The tensor is not two-dimensional.
    pub fn new(matrix: &Packed) -> Result<Option<Self>> {
        let format = match matrix.format {
            GgmlDType::Q4_0 => Format::Q4_0,
            GgmlDType::Q4_1 => Format::Q4_1,
            GgmlDType::Q4K => Format::Q4K,
            GgmlDType::BF16 => Format::Bf16,
            GgmlDType::Q8_0 => Format::Q8_0,
            _ => return Ok(None),
        };
        if !matrix.device.is_cpu() {
            return Ok(None);
        }
        let (rows, columns) = matrix.shape.dims2()?;
        if !columns.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        Ok(Some(Self { format, bytes: matrix.bytes.clone(), rows, columns }))
    }

    /// Multiplies x (.., d) -> (.., n), in f32.
    ///
    /// # Errors
    /// The last axis of `x` is not d.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let last = shape.len() - 1;
        shape[last] = self.rows;
        let x = x.reshape(((), self.columns))?;
        let m = x.dim(0)?;
        let y = if m <= MAX_DOT_PRODUCT_ROWS {
            self.multiply_by_dot_products(&x)?
        } else if m <= MAX_PER_CORE_ROWS {
            self.multiply_per_core(&x)?
        } else {
            self.multiply_on_all_cores(&x)?
        };
        Ok(y.reshape(shape)?)
    }

    /// Unpacks the rows `ids`: (n) -> (n, d), in f32.
    ///
    /// # Errors
    /// An id is beyond the rows of the matrix.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let mut rows = vec![0f32; ids.len() * self.columns];
        for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(self.columns)) {
            if id as usize >= self.rows {
                return Err(Error::Prompt(format!(
                    "token {id} is beyond the vocabulary of {} tokens",
                    self.rows
                )));
            }
            self.unpack(id as usize, row);
        }
        Ok(Tensor::from_vec(rows, (ids.len(), self.columns), &Device::Cpu)?)
    }

    /// Multiplies x (m, d) with small m -> (m, n) by dot products.
    fn multiply_by_dot_products(&self, x: &Tensor) -> Result<Tensor> {
        let m = x.dim(0)?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let y = match self.format {
            Format::Q4_0 => self.dot_products_in::<Q4_0>(&x, m),
            Format::Q4_1 => self.dot_products_in::<Q4_1>(&x, m),
            Format::Q4K => self.dot_products_in::<Q4K>(&x, m),
            Format::Q8_0 => self.dot_products_in::<Q8_0>(&x, m),
            Format::Bf16 => self.dot_products_in::<Bf16>(&x, m),
        };
        let y = if m == 1 { y } else { transpose(&y, m, (m, self.rows)) };
        Ok(Tensor::from_vec(y, (m, self.rows), &Device::Cpu)?)
    }

    /// Multiplies `m` rows of activations -> (n, m).
    fn dot_products_in<P: BlockFormat>(&self, x: &[f32], m: usize) -> Vec<f32> {
        match m {
            1 => self.dot_products_with::<P, 1>(x),
            2 => self.dot_products_with::<P, 2>(x),
            3 => self.dot_products_with::<P, 3>(x),
            4 => self.dot_products_with::<P, 4>(x),
            5 => self.dot_products_with::<P, 5>(x),
            6 => self.dot_products_with::<P, 6>(x),
            7 => self.dot_products_with::<P, 7>(x),
            _ => self.dot_products_with::<P, MAX_DOT_PRODUCT_ROWS>(x),
        }
    }

    fn dot_products_with<P: BlockFormat, const M: usize>(&self, x: &[f32]) -> Vec<f32> {
        let x = Activations::<M>::new(x, self.columns);
        let mut y = vec![0f32; self.rows * M];
        y.par_chunks_mut(ROWS_PER_TASK * M).enumerate().for_each(|(task, y)| {
            for (i, y) in y.chunks_exact_mut(M).enumerate() {
                y.copy_from_slice(&dot_products::<P, M>(self.row(task * ROWS_PER_TASK + i), &x));
            }
        });
        y
    }

    /// Multiplies x (m, d) -> (m, n) with one product per core. Each core unpacks its weights into its own
    /// cache.
    fn multiply_per_core(&self, x: &Tensor) -> Result<Tensor> {
        let (m, d) = x.dims2()?;
        // `gemm` would copy x in the product of every tile, unless its rows fill whole vectors and lie side by side.
        let width = m.next_multiple_of(GEMM_LANES);
        let x = transpose(&floats(x)?, d, (d, width));
        let x = MatrixView::new(&x, (d, width), width);
        let rows = (CORE_TILE / d).max(ROWS_PER_TASK);
        let mut y = vec![0f32; self.rows * width]; // (n, width)
        y.par_chunks_mut(rows * width).enumerate().for_each_init(Vec::new, |weights, (task, y)| {
            let n = y.len() / width;
            weights.resize(n * d, 0.0);
            for (i, weights) in weights.chunks_exact_mut(d).enumerate() {
                self.unpack(task * rows + i, weights);
            }
            add_product(y, width, MatrixView::new(weights, (n, d), d), x, Parallelism::None);
        });
        Ok(Tensor::from_vec(transpose(&y, width, (m, self.rows)), (m, self.rows), &Device::Cpu)?)
    }

    /// Multiplies x (m, d) with large m -> (m, n). All cores share each product.
    fn multiply_on_all_cores(&self, x: &Tensor) -> Result<Tensor> {
        let ((m, d), n) = (x.dims2()?, self.rows);
        let x = floats(x)?;
        let (x, tile) = (MatrixView::new(&x, (m, d), d), (SHARED_TILE / d).clamp(1, n));
        let (mut weights, mut y) = (vec![0f32; tile * d], vec![0f32; m * n]);
        for first in (0..n).step_by(tile) {
            let rows = tile.min(n - first);
            let unpack = |(i, row): (usize, &mut [f32])| self.unpack(first + i, row);
            weights[..rows * d]
                .par_chunks_exact_mut(d)
                .with_min_len(ROWS_PER_TASK)
                .enumerate()
                .for_each(unpack);
            let weights = MatrixView::new(&weights, (rows, d), d).transposed();
            add_product(&mut y[first..], n, x, weights, Parallelism::Rayon(0));
        }
        Ok(Tensor::from_vec(y, (m, n), &Device::Cpu)?)
    }

    fn unpack(&self, row: usize, weights: &mut [f32]) {
        match self.format {
            Format::Q4_0 => unpack_row::<Q4_0>(self.row(row), weights),
            Format::Q4_1 => unpack_row::<Q4_1>(self.row(row), weights),
            Format::Q4K => unpack_row::<Q4K>(self.row(row), weights),
            Format::Q8_0 => unpack_row::<Q8_0>(self.row(row), weights),
            Format::Bf16 => unpack_row::<Bf16>(self.row(row), weights),
        }
    }

    fn row(&self, row: usize) -> &[u8] {
        let length = self.bytes.len() / self.rows;
        &self.bytes[row * length..][..length]
    }
}

fn unpack_row<P: BlockFormat>(row: &[u8], weights: &mut [f32]) {
    let groups = row.chunks_exact(P::BYTES).zip(weights.chunks_exact_mut(P::BLOCKS * BLOCK));
    for (group, weights) in groups {
        for (index, weights) in weights.chunks_exact_mut(BLOCK).enumerate() {
            let block = P::unpack(group, index);
            let (scale, offset) = (f32x8::splat(block.scale), f32x8::splat(block.offset));
            for (weights, numbers) in weights.chunks_exact_mut(LANES).zip(block.numbers) {
                weights.copy_from_slice(&numbers.mul_add(scale, offset).to_array());
            }
        }
    }
}

/// `M` rows of activations in blocks. The blocks of all rows that meet one block of weights lie together.
struct Activations<const M: usize> {
    blocks: Vec<[Vectors; M]>,
    /// Sums of the blocks, a lane per row: the offset of a weight block multiplies them.
    sums: Vec<f32x8>,
}

impl<const M: usize> Activations<M> {
    fn new(values: &[f32], columns: usize) -> Self {
        let block = |row: usize, index: usize| &values[row * columns + index * BLOCK..][..BLOCK];
        let vectors = |block: &[f32]| -> Vectors {
            std::array::from_fn(|v| f32x8::new(std::array::from_fn(|i| block[v * LANES + i])))
        };
        let sum = |row: usize, index: usize| if row < M { block(row, index).iter().sum() } else { 0.0 };
        let indices = 0..columns / BLOCK;
        Self {
            blocks: indices.clone().map(|i| std::array::from_fn(|row| vectors(block(row, i)))).collect(),
            sums: indices.map(|i| f32x8::new(std::array::from_fn(|row| sum(row, i)))).collect(),
        }
    }
}

/// Multiplies one row of weights with `M` rows of activations. Each block is unpacked once, into registers.
fn dot_products<P: BlockFormat, const M: usize>(row: &[u8], x: &Activations<M>) -> [f32; M] {
    let mut sums = [f32x8::ZERO; M];
    let mut offsets = f32x8::ZERO;
    let mut x = x.blocks.iter().zip(&x.sums);
    for group in row.chunks_exact(P::BYTES) {
        for (block, (values, block_sums)) in (0..P::BLOCKS).zip(&mut x) {
            let UnpackedBlock { scale, offset, numbers } = P::unpack(group, block);
            let scale = f32x8::splat(scale);
            for (sum, values) in sums.iter_mut().zip(values) {
                let products = numbers[0].mul_add(values[0], numbers[1] * values[1])
                    + numbers[2].mul_add(values[2], numbers[3] * values[3]);
                *sum = products.mul_add(scale, *sum);
            }
            offsets += f32x8::splat(offset) * *block_sums;
        }
    }
    let offsets = offsets.to_array();
    std::array::from_fn(|m| sums[m].reduce_add() + offsets[m])
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use candle_core::quantized::QTensor;

    use super::*;

    fn block_matrix(matrix: &QTensor) -> BlockMatrix {
        let packed = Packed::copied(matrix, &Device::Cpu).unwrap();
        BlockMatrix::new(&packed).unwrap().expect("the format is known")
    }

    /// Compares with candle's dequantisation and an ordinary product.
    fn check(format: GgmlDType, rows: usize, columns: usize, m: usize) {
        let numbers = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let dense = Tensor::from_vec(numbers(rows * columns, 0.37), (rows, columns), &Device::Cpu).unwrap();
        let x = Tensor::from_vec(numbers(m * columns, 0.11), (m, columns), &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&dense, format).unwrap();
        let matrix = block_matrix(&packed);
        let weights = packed.dequantize(&Device::Cpu).unwrap();
        let distance = |a: &Tensor, b: &Tensor| {
            (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let expected = x.matmul(&weights.t().unwrap()).unwrap();
        let error = distance(&matrix.forward(&x).unwrap(), &expected);
        assert!(error < 1e-4, "{format:?} ({rows}, {columns}) x {m}: {error}");
        let ids = Tensor::new(&[rows as u32 - 1, 0], &Device::Cpu).unwrap();
        let rows_found = matrix.rows(&ids).unwrap();
        assert!(distance(&rows_found, &weights.index_select(&ids, 0).unwrap()) < 1e-6, "{format:?} rows");
    }

    #[test]
    fn equals_product_with_dequantised_matrix() {
        for format in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0] {
            for (rows, columns, m) in [
                (5, 64, 1),
                (37, 96, 3),
                (6, 128, 2),
                (7, 64, 4),
                (9, 96, 5),
                (65, 64, 6),
                (34, 32, 7),
                (33, 32, MAX_DOT_PRODUCT_ROWS),
                (50, 160, MAX_DOT_PRODUCT_ROWS + 1),
                (2100, 32, MAX_PER_CORE_ROWS),
                (3, 32, MAX_PER_CORE_ROWS + 1),
            ] {
                check(format, rows, columns, m);
            }
        }
        for (rows, columns, m) in [(5, 256, 1), (37, 768, 3), (33, 512, 9), (2100, 256, 40), (3, 256, 97)] {
            check(GgmlDType::Q4K, rows, columns, m);
        }
    }

    /// Weights in bf16 are those of the file, to the bit.
    #[test]
    fn bf16_is_exact() {
        let values: Vec<f32> = (0..37 * 96).map(|i| (i as f32 * 0.37).sin()).collect();
        let dense = Tensor::from_vec(values, (37, 96), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        let numbers = dense.flatten_all().unwrap().to_vec1::<half::bf16>().unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let shape = dense.shape().clone();
        let packed = Packed { format: GgmlDType::BF16, shape, bytes: bytes.into(), device: Device::Cpu };
        let matrix = BlockMatrix::new(&packed).unwrap().expect("the format is known");
        let weights = dense.to_dtype(DType::F32).unwrap();
        let ids = Tensor::new(&[36u32, 0, 5], &Device::Cpu).unwrap();
        let rows = matrix.rows(&ids).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, weights.index_select(&ids, 0).unwrap().to_vec2::<f32>().unwrap());
        for m in [1, 9, 100] {
            let x: Vec<f32> = (0..m * 96).map(|i| (i as f32 * 0.11).sin()).collect();
            let x = Tensor::from_vec(x, (m, 96), &Device::Cpu).unwrap();
            let expected = x.matmul(&weights.t().unwrap()).unwrap();
            let apart = (matrix.forward(&x).unwrap() - expected).unwrap().abs().unwrap();
            assert!(apart.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
        }
    }

    #[test]
    fn rejects_ids_beyond_the_rows() {
        let dense = Tensor::zeros((4, 32), DType::F32, &Device::Cpu).unwrap();
        let matrix = block_matrix(&QTensor::quantize(&dense, GgmlDType::Q8_0).unwrap());
        assert!(matrix.rows(&Tensor::new(&[4u32], &Device::Cpu).unwrap()).is_err());
    }
}
