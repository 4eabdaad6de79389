//! Additive attention masks.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// Builds the additive mask (n, l) of `queries` n and `keys` l: 0 where query i attends to key j, that is where
/// `attends(i, j)`, and minus infinity elsewhere. Adding it to attention scores removes the other keys.
///
/// # Errors
/// The tensor library refused an operation.
pub fn additive_mask(
    (queries, keys): (usize, usize),
    attends: impl Fn(usize, usize) -> bool,
    device: &Device,
    dtype: DType,
) -> Result<Tensor> {
    let value = |i: usize, j: usize| if attends(i, j) { 0.0 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> =
        (0..queries).flat_map(|i| (0..keys).map(move |j| (i, j))).map(|(i, j)| value(i, j)).collect();
    Ok(Tensor::from_vec(mask, (queries, keys), device)?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_in_any_dtype() {
        const HIDDEN: f32 = f32::NEG_INFINITY;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mask = additive_mask((2, 3), |i, j| j <= i, &Device::Cpu, dtype).unwrap();
            assert_eq!(mask.dtype(), dtype);
            let values = mask.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(values, [[0.0, HIDDEN, HIDDEN], [0.0, 0.0, HIDDEN]]);
        }
    }
}
