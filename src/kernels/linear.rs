//! A linear map whose matrix may be quantised.

use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Module, Tensor};
use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};

use super::quantized::BlockMatrix;
use crate::error::Result;
use crate::weights::{Matrix, Weights};

/// Keeps the variance of its input: what a layer between two normalisations wants.
pub const LINEAR_INIT: Init = Init::Kaiming {
    dist: NormalOrUniform::Normal,
    fan: FanInOut::FanIn,
    non_linearity: NonLinearity::Linear,
};

/// `x @ weight^T`, without bias: (.., d_in) -> (.., d_out).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
}

#[derive(Debug, Clone)]
enum Weight {
    Dense(Tensor),
    /// On the CPU, in a format that has a kernel here.
    Blocks(BlockMatrix),
    /// Any other quantised matrix, by candle.
    Quantized(QMatMul),
}

impl Linear {
    /// Takes `weight` of shape (d_out, d_in).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn new(d_in: usize, d_out: usize, weights: Weights) -> Result<Self> {
        Self::from_matrix(weights.matrix((d_out, d_in), "weight", LINEAR_INIT)?)
    }

    /// Wraps a matrix (d_out, d_in) that another layer may share, as tied embeddings do.
    pub fn from_matrix(matrix: Matrix) -> Result<Self> {
        let weight = match matrix {
            Matrix::Dense(weight) => Weight::Dense(weight),
            Matrix::Quantized(packed) => match BlockMatrix::new(&packed)? {
                Some(blocks) => Weight::Blocks(blocks),
                None => Weight::Quantized(QMatMul::from_arc(packed)?),
            },
        };
        Ok(Self { weight })
    }

    /// Quantised matrices compute in f32, whatever the dtype of `x`; the result has the dtype of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let in_f32 = || x.to_dtype(DType::F32);
        match &self.weight {
            Weight::Dense(weight) => Ok(flat_matmul(x, weight)?),
            Weight::Blocks(matrix) => Ok(matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?),
            Weight::Quantized(matrix) => Ok(matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?),
        }
    }

    /// The rows `ids` (n) of the matrix as activations of `dtype`: (n) -> (n, d_in).
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        let rows = match &self.weight {
            Weight::Dense(weight) => weight.index_select(ids, 0)?,
            Weight::Blocks(matrix) => matrix.rows(ids)?,
            Weight::Quantized(matrix) => matrix.embedding(ids)?,
        };
        Ok(rows.to_dtype(dtype)?)
    }
}

/// One matrix product over all leading axes: candle would otherwise run one per leading index.
fn flat_matmul(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let d_in = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = weight.dim(0)?;
    x.reshape(((), d_in))?.matmul(&weight.t()?)?.reshape(shape)
}
