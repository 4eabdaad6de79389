//! Formats of matrices after the load.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};

/// Treatment of quantised tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantization {
    /// Matrices stay quantised, all other tensors are dequantised. On the CPU, formats without a fast kernel (Q5_0, Q5_1,
    /// Q8_1) are converted to Q8_0, and Q4_0, Q4_1, Q4_K, Q8_0 and bf16 are read from the mapped file.
    #[default]
    Keep,
    /// All tensors are dequantised at load: more memory, exact matrix products, differentiable.
    Dequantize,
    /// Matrices are quantised at load to 8 bits, in blocks of 32 weights: 8.5 bits per weight.
    Q8_0,
    /// Matrices are quantised at load to 4 bits, in blocks of 256 weights: 4.5 bits per weight. The embedding and the output head
    /// become Q8_0. So does a matrix whose rows do not divide into such blocks; else it stays dense.
    Q4K,
}

impl Quantization {
    /// Returns the format to which dense matrices are quantised at load.
    pub fn at_load(self) -> Option<GgmlDType> {
        match self {
            Quantization::Keep | Quantization::Dequantize => None,
            Quantization::Q8_0 => Some(GgmlDType::Q8_0),
            Quantization::Q4K => Some(GgmlDType::Q4K),
        }
    }

    /// Returns the treatment without quantisation at load: matrices keep the format of the file, or are dequantised.
    pub fn as_stored(self) -> Self {
        match self.at_load() {
            Some(_) => Quantization::Keep,
            None => self,
        }
    }

    /// Returns the treatment of an embedding and an output head: at least 8 bits per weight of a matrix that is quantised at load.
    pub fn in_8_bits(self) -> Self {
        match self {
            Quantization::Q4K => Quantization::Q8_0,
            other => other,
        }
    }
}

/// Device, number type and quantisation of matrices.
#[derive(Debug, Clone)]
pub struct MatrixOptions {
    /// Device of the products.
    pub device: Device,
    /// Type of dense tensors and activations.
    pub dtype: DType,
    /// Treatment of matrices.
    pub quantization: Quantization,
}

impl MatrixOptions {
    /// Returns the format of a matrix after loading; `None`: it is dense. A matrix that the file quantises keeps its format,
    /// unless a smaller one is wanted, or it is Q5_0, Q5_1 or Q8_1: on the CPU neither candle nor `kernels/quantized.rs` has a
    /// vector kernel for those, so they become Q8_0. On the CPU, weights in bf16 stay so for computations in f32: the products
    /// convert them.
    pub fn format(&self, format: GgmlDType, dims: &[usize]) -> Option<GgmlDType> {
        let is_cpu = self.device.is_cpu();
        let kept = match format {
            _ if self.quantization == Quantization::Dequantize => None,
            GgmlDType::BF16 if is_cpu && self.dtype == DType::F32 => {
                fitting_format(GgmlDType::Q8_0, dims).map(|_| format)
            }
            GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q8_1 if is_cpu => Some(GgmlDType::Q8_0),
            dense if dense.block_size() == 1 => None,
            same => Some(same),
        };
        let wanted = self.quantization.at_load().and_then(|wanted| fitting_format(wanted, dims));
        match (kept, wanted) {
            (Some(kept), Some(wanted)) if density(kept) <= density(wanted) => Some(kept),
            (kept, wanted) => wanted.or(kept),
        }
    }
}

/// Returns the format of a matrix of some shape: `wanted`, or Q8_0 if its blocks do not divide the columns, or `None` if no
/// format fits.
fn fitting_format(wanted: GgmlDType, dims: &[usize]) -> Option<GgmlDType> {
    let &[_, columns] = dims else { return None };
    let fits = |format: &GgmlDType| columns > 0 && columns.is_multiple_of(format.block_size());
    [wanted, GgmlDType::Q8_0].into_iter().find(fits)
}

/// Returns the bytes per weight, times 256, of a format.
fn density(format: GgmlDType) -> usize {
    256 * format.type_size() / format.block_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_fits_the_columns() {
        let fitting = |columns| fitting_format(GgmlDType::Q4K, &[3, columns]);
        assert_eq!([512, 96, 100, 0].map(fitting), [Some(GgmlDType::Q4K), Some(GgmlDType::Q8_0), None, None]);
        assert_eq!(fitting_format(GgmlDType::Q8_0, &[64]), None);
        assert!(density(GgmlDType::Q4K) < density(GgmlDType::Q4_1));
        assert!(density(GgmlDType::Q8_0) < density(GgmlDType::F16));
    }
}
