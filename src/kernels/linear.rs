//! Linear layer with a dense or quantised matrix.

use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Module, Tensor};
use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};

use super::floats::on_cpu_in_f32;
use super::panels::PanelMatrix;
use super::quantized::BlockMatrix;
use crate::error::Result;
use crate::weights::{Matrix, Weights};

/// Initialisation that keeps the variance of the input, for a layer between two normalisations.
pub const LINEAR_INIT: Init = Init::Kaiming {
    dist: NormalOrUniform::Normal,
    fan: FanInOut::FanIn,
    non_linearity: NonLinearity::Linear,
};

/// Initial values of an untrained embedding, as transformers' models start.
const EMBEDDING_INIT: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// Linear layer without bias, `x @ weight^T`: (.., d_in) -> (.., d_out).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
enum Weight {
    /// A matrix that is trained, or not in f32, or not on the CPU.
    Dense(Tensor),
    /// A constant matrix in f32 on the CPU.
    Panels(PanelMatrix),
    /// A quantised matrix on the CPU in a format of [`BlockMatrix`].
    Blocks(BlockMatrix),
    /// Any other quantised matrix, multiplied by candle.
    Quantized(QMatMul),
}

impl Linear {
    /// Reads `weight` of shape (d_out, d_in).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn new(d_in: usize, d_out: usize, weights: Weights) -> Result<Self> {
        Self::from_matrix(weights.matrix((d_out, d_in), "weight", LINEAR_INIT)?)
    }

    /// Reads `weight` of shape (vocabulary, d) of an embedding, which may serve as the output head too. Quantised at load, it has
    /// 8 bits.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn embedding(vocabulary: usize, d: usize, weights: &Weights) -> Result<Self> {
        Self::from_matrix(weights.in_8_bits().matrix((vocabulary, d), "weight", EMBEDDING_INIT)?)
    }

    /// Reads `weight` of shape (vocabulary, d) of an output head. Quantised at load, it has 8 bits.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn head(d: usize, vocabulary: usize, weights: &Weights) -> Result<Self> {
        Self::new(d, vocabulary, weights.in_8_bits())
    }

    /// Wraps a matrix (d_out, d_in). Another layer can share it, as with tied embeddings.
    ///
    /// # Errors
    /// The quantised matrix is not two-dimensional, or candle refused it.
    pub fn from_matrix(matrix: Matrix) -> Result<Self> {
        let weight = match matrix {
            Matrix::Dense(weight) if on_cpu_in_f32(&weight) && !weight.track_op() => {
                Weight::Panels(PanelMatrix::new(&weight)?)
            }
            Matrix::Dense(weight) => Weight::Dense(weight),
            Matrix::Quantized(packed) => match BlockMatrix::new(&packed)? {
                Some(blocks) => Weight::Blocks(blocks),
                None => Weight::Quantized(QMatMul::from_qtensor(packed.to_candle()?)?),
            },
        };
        Ok(Self { weight, bias: None })
    }

    /// Takes `weight` of shape (d_out, d_in) and, with `bias`, `bias` of shape (d_out).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(d_in: usize, d_out: usize, bias: bool, weights: Weights) -> Result<Self> {
        let bias = if bias { Some(weights.get(d_out, "bias", Init::Const(0.0))?) } else { None };
        Ok(Self { bias, ..Self::new(d_in, d_out, weights)? })
    }

    /// Tells whether the map has a bias.
    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Multiplies `x` (.., d_in) -> (.., d_out), in the dtype of `x`.
    ///
    /// Products with quantised matrices are computed in f32. candle computes them on CUDA, and on the CPU for
    /// formats without a kernel here; it rounds the activations to 8 bits first.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let in_f32 = || x.to_dtype(DType::F32);
        let y = match &self.weight {
            Weight::Dense(weight) => flat_matmul(x, weight)?,
            Weight::Panels(matrix) => matrix.forward(x)?,
            Weight::Blocks(matrix) => matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?,
            Weight::Quantized(matrix) => matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?,
        };
        match &self.bias {
            None => Ok(y),
            Some(bias) => Ok(y.broadcast_add(bias)?),
        }
    }

    /// Looks up the rows `ids` of the matrix in `dtype`: (n) -> (n, d_in).
    ///
    /// # Errors
    /// An id is beyond the rows of the matrix.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        let rows = match &self.weight {
            Weight::Dense(weight) => weight.index_select(ids, 0)?,
            Weight::Panels(matrix) => matrix.rows(ids)?,
            Weight::Blocks(matrix) => matrix.rows(ids)?,
            Weight::Quantized(matrix) => matrix.embedding(ids)?,
        };
        Ok(rows.to_dtype(dtype)?)
    }
}

/// Returns `x`, copied if its matrices are neither row-major nor column-major. The CPU multiplies any view;
/// cuBLAS supports these two layouts only, and candle refuses the others on CUDA.
pub(super) fn blas_compatible(x: &Tensor) -> candle_core::Result<Tensor> {
    let ((rows, columns), stride) = ((x.dim(D::Minus2)?, x.dim(D::Minus1)?), x.stride());
    let (down, right) = (stride[stride.len() - 2], stride[stride.len() - 1]);
    let along = |step: usize, length: usize, by: usize| step == by || length == 1;
    let by_rows = along(right, columns, 1) && along(down, rows, columns);
    let by_columns = along(down, rows, 1) && along(right, columns, rows);
    if by_rows || by_columns { Ok(x.clone()) } else { x.contiguous() }
}

/// One matrix product over all leading axes; candle would run one per leading index.
fn flat_matmul(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let d_in = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = weight.dim(0)?;
    x.reshape(((), d_in))?.matmul(&weight.t()?)?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn copies_only_layouts_unsupported_by_blas() {
        let x = Tensor::arange(0f32, 120.0, &Device::Cpu).unwrap().reshape((2, 10, 6)).unwrap();
        let check = |what: &str, view: candle_core::Result<Tensor>, copied: bool| {
            let view = view.unwrap();
            let got = blas_compatible(&view).unwrap();
            assert_eq!(got.stride() != view.stride(), copied, "{what}");
            assert_eq!(got.to_vec3::<f32>().unwrap(), view.to_vec3::<f32>().unwrap(), "{what}");
        };
        check("whole", Ok(x.clone()), false);
        check("transposed", x.transpose(1, 2), false);
        check("some rows", x.narrow(1, 3, 4), false);
        check("one row, some columns", x.narrow(1, 3, 1).and_then(|row| row.narrow(2, 1, 4)), false);
        check("some columns", x.narrow(2, 1, 4), true);
        check("some rows, transposed", x.narrow(1, 3, 4).and_then(|rows| rows.transpose(1, 2)), false);
        check("some columns, transposed", x.narrow(2, 1, 4).and_then(|part| part.transpose(1, 2)), true);
    }
}
