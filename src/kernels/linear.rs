//! A linear map whose matrix may be quantised.

use candle_core::quantized::QMatMul;
use candle_core::{D, DType, Module, Tensor};
use candle_nn::Init;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};

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
    matrix: QMatMul,
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
        let matrix = match matrix {
            Matrix::Dense(weight) => QMatMul::Tensor(weight),
            Matrix::Quantized(weight) => QMatMul::from_arc(weight)?,
        };
        Ok(Self { matrix })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.matrix {
            QMatMul::Tensor(weight) => Ok(flat_matmul(x, weight)?),
            // The quantised kernels take f32 only.
            quantized if x.dtype() != DType::F32 => {
                Ok(quantized.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?)
            }
            quantized => Ok(quantized.forward(x)?),
        }
    }

    /// The rows `ids` (n) of the matrix as activations of `dtype`: (n) -> (n, d_in).
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.matrix.embedding(ids)?.to_dtype(dtype)?)
    }
}

/// One matrix product over all leading axes: candle would otherwise run one per leading index.
fn flat_matmul(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let d_in = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = weight.dim(0)?;
    x.reshape(((), d_in))?.matmul(&weight.t()?)?.reshape(shape)
}
