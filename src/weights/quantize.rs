//! Quantisation of dense matrices while they are read: one matrix at a time, by blocks of rows on all cores.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Weights that one task quantises: 256 KiB in f32.
const WEIGHTS_PER_TASK: usize = 1 << 16;

/// Quantises a dense matrix (rows, columns) on the CPU in any floating-point type, and returns the blocks of all rows. The columns
/// divide into blocks.
///
/// # Errors
/// A weight is not finite, or the tensor library refuses an operation.
pub(super) fn quantized(dense: &Tensor, format: GgmlDType) -> candle_core::Result<Vec<u8>> {
    let (rows, columns) = dense.dims2()?;
    let row_bytes = columns / format.block_size() * format.type_size();
    let rows_per_task = (WEIGHTS_PER_TASK / columns).max(1);
    let mut bytes = vec![0u8; rows * row_bytes];
    bytes.par_chunks_mut(rows_per_task * row_bytes).enumerate().try_for_each(|(task, bytes)| {
        let block = dense.narrow(0, task * rows_per_task, bytes.len() / row_bytes)?;
        // A tensor of its own: candle quantises the whole storage of a view.
        let weights = block.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if weights.iter().any(|weight| !weight.is_finite()) {
            candle_core::bail!("a weight is not finite");
        }
        let block = Tensor::from_vec(weights, block.dims(), &Device::Cpu)?;
        bytes.copy_from_slice(&QTensor::quantize(&block, format)?.data()?);
        Ok::<_, candle_core::Error>(())
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, columns: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 % 10_007) as f32 / 10_007.0 - 0.5) * (1.0 + (i % 13) as f32);
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// The parallel quantiser makes the bytes of candle's.
    #[test]
    fn equals_quantisation_of_the_whole() {
        for (format, rows, columns) in
            [(GgmlDType::Q4K, 521, 512), (GgmlDType::Q8_0, 700, 96), (GgmlDType::Q4K, 1, 256)]
        {
            let dense = noise(rows, columns);
            let packed = quantized(&dense, format).unwrap();
            let whole = QTensor::quantize(&dense, format).unwrap();
            assert_eq!(&packed[..], &whole.data().unwrap()[..], "{format:?}");
            let half = dense.to_dtype(DType::BF16).unwrap();
            let packed = quantized(&half, format).unwrap();
            let whole = QTensor::quantize(&half.to_dtype(DType::F32).unwrap(), format).unwrap();
            assert_eq!(&packed[..], &whole.data().unwrap()[..], "{format:?} of bf16");
        }
    }

    #[test]
    fn refuses_weights_that_are_not_finite() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut values = vec![0.5; 512];
            values[300] = wrong;
            let dense = Tensor::from_vec(values, (2, 256), &Device::Cpu).unwrap();
            let error = quantized(&dense, GgmlDType::Q4K).unwrap_err().to_string();
            assert!(error.contains("not finite"), "{error}");
        }
    }
}
