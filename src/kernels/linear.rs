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
    bias: Option<Tensor>,
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

    /// Quantised matrices compute in f32, whatever the dtype of `x`; the result has the dtype of `x`. By candle, on
    /// CUDA always and on the CPU for formats without a kernel here, they round the activations to 8 bits first.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let in_f32 = || x.to_dtype(DType::F32);
        let y = match &self.weight {
            Weight::Dense(weight) => flat_matmul(x, weight)?,
            Weight::Blocks(matrix) => matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?,
            Weight::Quantized(matrix) => matrix.forward(&in_f32()?)?.to_dtype(x.dtype())?,
        };
        match &self.bias {
            None => Ok(y),
            Some(bias) => Ok(y.broadcast_add(bias)?),
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

/// `x`, copied if its matrices lie neither row after row nor column after column. The CPU multiplies any view; cuBLAS
/// takes only these, and candle refuses the others there.
pub(super) fn multipliable(x: &Tensor) -> candle_core::Result<Tensor> {
    let ((rows, columns), stride) = ((x.dim(D::Minus2)?, x.dim(D::Minus1)?), x.stride());
    let (down, right) = (stride[stride.len() - 2], stride[stride.len() - 1]);
    let along = |step: usize, length: usize, by: usize| step == by || length == 1;
    let by_rows = along(right, columns, 1) && along(down, rows, columns);
    let by_columns = along(down, rows, 1) && along(right, columns, rows);
    if by_rows || by_columns { Ok(x.clone()) } else { x.contiguous() }
}

/// One matrix product over all leading axes: candle would otherwise run one per leading index.
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
    fn only_what_no_blas_reads_is_copied() {
        let x = Tensor::arange(0f32, 120.0, &Device::Cpu).unwrap().reshape((2, 10, 6)).unwrap();
        let check = |what: &str, view: candle_core::Result<Tensor>, copied: bool| {
            let view = view.unwrap();
            let got = multipliable(&view).unwrap();
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
