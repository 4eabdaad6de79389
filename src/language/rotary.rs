//! Rotary positions (arXiv 2104.09864) of some or all coordinates of a head.

use candle_core::{DType, Tensor};
use candle_nn::{Init, rotary_emb};
use serde_json::Value;

use super::json::{number, optional};
use crate::error::Result;
use crate::weights::Weights;

/// Parameters of rotary positions (arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Pairing of coordinates.
    pub style: RopeStyle,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

/// Pairing of the coordinates of a head that rotate together. A checkpoint's rows are ordered for one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Pairs i and i + d_head / 2: Hugging Face, and Qwen2 in GGUF.
    HalfSplit,
    /// Pairs 2i and 2i + 1: Meta's original, and every Llama in GGUF (the converter permutes q and k back).
    Interleaved,
}

/// Scaling of the frequencies for contexts longer than those of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// The frequencies stay as they are.
    None,
    /// All frequencies are divided by this factor.
    Linear(f64),
    /// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// Divisor of the frequencies of long wavelengths.
        factor: f64,
        /// Periods in the original context, at or below which a wavelength is long.
        low_frequency: f64,
        /// Periods in the original context, at or above which a wavelength is short.
        high_frequency: f64,
        /// Length of the original context in tokens.
        original_positions: f64,
    },
    /// The checkpoint carries a divisor per frequency, `model.rope_factors` (d_head / 2).
    Factors,
}

impl Rope {
    /// Returns the radians per position of each pair of `width` coordinates: width / 2 values, before
    /// [`RopeScaling::Factors`].
    pub fn frequencies(&self, width: usize) -> Vec<f32> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / width as f64);
        (0..width / 2).map(|i| self.scaling.apply(plain(i)) as f32).collect()
    }

    /// Reads `rope_scaling` and the base under the key `theta`, or both from `rope_parameters` (transformers 5).
    ///
    /// # Errors
    /// The scaling is unknown, or lacks a parameter.
    pub(super) fn from_hugging_face(json: &Value, theta: &str) -> Result<Self, String> {
        let non_null = |key| json.get(key).filter(|value| !value.is_null());
        let parameters = non_null("rope_parameters").or(non_null("rope_scaling")).unwrap_or(&Value::Null);
        let theta = match optional(parameters, "rope_theta", number)? {
            Some(theta) => theta,
            None => optional(json, theta, number)?.unwrap_or(10_000.0),
        };
        let kind = parameters.get("rope_type").or(parameters.get("type")).and_then(Value::as_str);
        let scaling = match kind {
            None if parameters.get("factor").is_some() => return Err("rope scaling without a type".into()),
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear(positive(parameters, "factor")?),
            Some("llama3") => llama3_scaling(parameters)?,
            Some(other) => return Err(format!("unknown rope scaling `{other}`")),
        };
        Ok(Self { theta, style: RopeStyle::HalfSplit, scaling })
    }

    /// Refuses a rotation that no model has, before any allocation depends on its sizes.
    ///
    /// # Errors
    /// The width is odd, the table of positions is too large, or the base is not positive.
    pub(super) fn check(&self, width: usize, positions: usize) -> Result<(), String> {
        const TABLE_LIMIT: usize = 1 << 26;
        if !width.is_multiple_of(2) {
            return Err(format!("the head width {width} is odd: rotary positions rotate pairs"));
        }
        if positions * width / 2 > TABLE_LIMIT {
            return Err(format!("{positions} positions of width {width} are too many"));
        }
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return Err(format!("rope theta {} must be positive", self.theta));
        }
        Ok(())
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        let (factor, low_frequency, high_frequency, original_positions) = match self {
            RopeScaling::None | RopeScaling::Factors => return frequency,
            RopeScaling::Linear(factor) => return frequency / factor,
            RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_positions } => {
                (factor, low_frequency, high_frequency, original_positions)
            }
        };
        let periods = original_positions * frequency / std::f64::consts::TAU;
        let kept = ((periods - low_frequency) / (high_frequency - low_frequency)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

fn llama3_scaling(parameters: &Value) -> Result<RopeScaling, String> {
    let positive = |key| positive(parameters, key);
    let (low_frequency, high_frequency) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
    if low_frequency >= high_frequency {
        return Err(format!(
            "`low_freq_factor` {low_frequency} is not below `high_freq_factor` {high_frequency}"
        ));
    }
    let (factor, original_positions) = (positive("factor")?, positive("original_max_position_embeddings")?);
    Ok(RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_positions })
}

fn positive(parameters: &Value, key: &str) -> Result<f64, String> {
    match number(parameters, key)? {
        value if value > 0.0 => Ok(value),
        value => Err(format!("`{key}` is {value}, not positive")),
    }
}

/// Table of rotary positions: cosines and sines of every position, (max_positions, width / 2) each.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    style: RopeStyle,
    /// Number of coordinates of a head that rotate; the others stay.
    width: usize,
}

impl Rotation {
    /// Computes the table for the first `width` coordinates of a head, in the dtype of `weights`.
    pub(super) fn new(rope: &Rope, width: usize, positions: usize, weights: &Weights) -> Result<Self> {
        let device = weights.device();
        let mut frequencies = rope.frequencies(width);
        if rope.scaling == RopeScaling::Factors {
            let factors = weights.get(frequencies.len(), "rope_factors", Init::Const(1.0))?;
            let factors = factors.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= factor);
        }
        let n = frequencies.len();
        let frequencies = Tensor::from_vec(frequencies, (1, n), device)?;
        let positions = Tensor::arange(0, positions as u32, device)?.to_dtype(DType::F32)?;
        let angles = positions.unsqueeze(1)?.matmul(&frequencies)?; // (max_positions, width / 2)
        let typed = |x: Tensor| x.to_dtype(weights.dtype());
        Ok(Self { cos: typed(angles.cos()?)?, sin: typed(angles.sin()?)?, style: rope.style, width })
    }

    /// Returns the cosines and sines of `positions` (n): (n, width / 2) each.
    pub(super) fn at(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.cos.index_select(positions, 0)?, self.sin.index_select(positions, 0)?))
    }

    /// Rotates the first coordinates of every head: (h, n, d_head) -> (h, n, d_head).
    pub(super) fn rotate(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let d_head = x.dim(2)?;
        if self.width == d_head {
            return self.rotate_all(x, cos, sin);
        }
        let rotated = self.rotate_all(&x.narrow(2, 0, self.width)?, cos, sin)?;
        Ok(Tensor::cat(&[rotated, x.narrow(2, self.width, d_head - self.width)?], 2)?)
    }

    /// Tracked tensors take candle's slow form: its fused kernels have no backward.
    fn rotate_all(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?.unsqueeze(0)?; // (1, h, n, width)
        let rotated = match (self.style, x.track_op()) {
            (RopeStyle::HalfSplit, false) => rotary_emb::rope(&x, cos, sin)?,
            (RopeStyle::HalfSplit, true) => rotary_emb::rope_slow(&x, cos, sin)?,
            (RopeStyle::Interleaved, false) => rotary_emb::rope_i(&x, cos, sin)?,
            (RopeStyle::Interleaved, true) => rotary_emb::rope_i_slow(&x, cos, sin)?,
        };
        Ok(rotated.squeeze(0)?)
    }
}
