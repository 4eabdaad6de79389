//! Deterministic weights without a file: the same numbers here and in `parity/golden/rule.py`.
//!
//! `value[i] = centre + (2 u - 1) * half`, `u = (splitmix64(fnv1a64(name) + i) >> 40) / 2^24`, in f32 after `u`,
//! so both sides agree bit for bit.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Result, Shape, Tensor};

fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns (centre, half width) of a parameter. Activations stay of order one, and every parameter has an effect.
fn scale(name: &str, shape: &[usize]) -> (f32, f32) {
    let last = name.rsplit('.').next().unwrap_or(name);
    let fan_in: usize = shape.iter().skip(1).product();
    if last.ends_with("gate") || last == "skipinit_gain" {
        (0.5, 0.25)
    } else if ["latents", "frame_embs", "media_time_embs"].contains(&last) {
        (0.0, 1.0)
    } else if ["bias", "beta"].contains(&last) || last.ends_with("_bias") {
        (0.0, 0.125)
    } else if fan_in == 1 {
        (1.0, 0.25)
    } else {
        (0.0, (3.0 / fan_in as f64).sqrt() as f32)
    }
}

/// Returns the parameter of this name and shape, on the CPU.
pub fn tensor(name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let (centre, half) = scale(name, shape.dims());
    values(name, shape, centre, half)
}

/// Returns numbers with a given centre and half width, for inputs.
pub fn values(name: &str, shape: impl Into<Shape>, centre: f32, half: f32) -> Result<Tensor> {
    let shape = shape.into();
    let seed = fnv1a64(name);
    let flat: Vec<f32> = (0..shape.elem_count() as u64)
        .map(|i| {
            let u = (splitmix64(seed.wrapping_add(i)) >> 40) as f32 / (1u32 << 24) as f32;
            centre + (2.0 * u - 1.0) * half
        })
        .collect();
    Tensor::from_vec(flat, shape, &Device::Cpu)
}

/// Returns every tensor of a list of names and shapes.
pub fn tensors(list: &[(String, Vec<usize>)]) -> Result<HashMap<String, Tensor>> {
    list.iter().map(|(name, shape)| Ok((name.clone(), tensor(name, shape.as_slice())?))).collect()
}

/// Writes every tensor of a list of names and shapes as one safetensors file.
pub fn save(list: &[(String, Vec<usize>)], path: &Path) -> Result<()> {
    candle_core::safetensors::save(&tensors(list)?, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_python_numbers() {
        // From rule.py: fnv1a64("stem.conv1.weight"), uniform("stem.conv1.weight", 3).
        assert_eq!(fnv1a64("stem.conv1.weight"), 17474677199926574219);
        let got = values("stem.conv1.weight", 3, 0.0, 1.0).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(got, [0.073_880_91, -0.784_096_1, 0.095_952_51]);
    }
}
