//! Frames of any size -> normalised pixels of the size that the encoder was trained on.

use std::borrow::Borrow;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::{Deserialize, Deserializer, Serialize};

use super::resize::{bicubic, bicubic_part};
use crate::error::Result;

/// Preprocessing of frames of any size to the square input of the encoder.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Method that makes a frame square.
    pub fit: Fit,
    /// Side of the encoder's input in pixels, 1 to 4096.
    #[serde(deserialize_with = "side")]
    pub size: u32,
    /// Mean per channel (RGB) of values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel (RGB), above 0.
    #[serde(deserialize_with = "deviations")]
    pub std: [f32; 3],
}

/// Method that makes a frame square.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Fit {
    /// Resizes the longer side to `size` and pads the shorter one with the mean, half on either side
    /// (Flamingo, section 4.1.4 of its first version).
    Pad,
    /// Resizes both sides to `floor(size / crop)` without keeping the aspect ratio, then crops the centre:
    /// timm's `squash` with its `crop_pct`. IDEFICS uses it with 1.
    Squash {
        /// Share of the resized side that the crop keeps, above 0 and at most 1.
        #[serde(deserialize_with = "fraction")]
        crop: f64,
    },
    /// Resizes the shorter side to `size`, then crops the centre: CLIP, open_clip.
    Crop,
}

fn side<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    checked(u32::deserialize(from)?, |side| (1..=4096).contains(side), "size must be 1 to 4096")
}

fn deviations<'de, D: Deserializer<'de>>(from: D) -> Result<[f32; 3], D::Error> {
    checked(<[f32; 3]>::deserialize(from)?, |std| std.iter().all(|&s| s > 0.0), "std must be above 0")
}

fn fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    checked(f64::deserialize(from)?, |&crop| crop > 0.0 && crop <= 1.0, "crop must be above 0 and at most 1")
}

fn checked<T, E: serde::de::Error>(value: T, good: fn(&T) -> bool, rule: &str) -> Result<T, E> {
    if good(&value) { Ok(value) } else { Err(E::custom(rule)) }
}

impl Preprocess {
    /// Resizes a frame, bit-equal to Pillow's bicubic. For `squash` and `crop` the result is `size` x `size`.
    /// For `pad` it is the picture without its border, `size` on the longer side: the mean is not a multiple
    /// of 1/255, so [`pixels`](Self::pixels) adds the border, where it is exactly 0.
    pub fn frame(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        match self.fit {
            Fit::Pad => {
                let longer = width.max(height);
                bicubic(image, scaled(width, self.size, longer), scaled(height, self.size, longer))
            }
            Fit::Squash { crop } => {
                let side = ((f64::from(self.size) / crop).floor() as u32).max(self.size);
                self.centre(image, (side, side))
            }
            Fit::Crop => {
                // torchvision truncates the longer side to an integer instead of rounding it.
                let longer = |a: u32, b: u32| (u64::from(self.size) * u64::from(a) / u64::from(b)) as u32;
                let whole = if width <= height {
                    (self.size, longer(height, width))
                } else {
                    (longer(width, height), self.size)
                };
                self.centre(image, whole)
            }
        }
    }

    /// Resizes `image` to `whole` and crops the centre as torchvision's `CenterCrop` does.
    fn centre(&self, image: &RgbImage, whole: (u32, u32)) -> RgbImage {
        // Python's `round` rounds halves to the even number.
        let part = |length: u32| {
            let start = (f64::from(length - self.size) / 2.0).round_ties_even() as u32;
            start..start + self.size
        };
        bicubic_part(image, whole, part(whole.0), part(whole.1))
    }

    /// Normalises frames made by [`frame`](Self::frame) -> (n, 3, size, size) in `dtype` on `device`.
    ///
    /// The bytes are copied to the device once, as u8. Consecutive frames of the same size are copied
    /// together.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn pixels(&self, frames: &[impl Borrow<RgbImage>], device: &Device, dtype: DType) -> Result<Tensor> {
        let frames: Vec<&RgbImage> = frames.iter().map(Borrow::borrow).collect();
        if frames.is_empty() {
            return Ok(Tensor::zeros((0, 3, self.size as usize, self.size as usize), dtype, device)?);
        }
        let same_size = frames.chunk_by(|a, b| a.dimensions() == b.dimensions());
        let parts = same_size.map(|run| self.normalised(run, device, dtype)).collect::<Result<Vec<_>>>()?;
        Ok(if let [only] = &parts[..] { only.clone() } else { Tensor::cat(&parts, 0)? })
    }

    fn normalised(&self, frames: &[&RgbImage], device: &Device, dtype: DType) -> Result<Tensor> {
        let (width, height) = frames[0].dimensions();
        let mut planes: Vec<u8> = Vec::with_capacity(frames.len() * frames[0].as_raw().len());
        for frame in frames {
            for channel in 0..3 {
                planes.extend(frame.as_raw().iter().skip(channel).step_by(3));
            }
        }
        let shape = (frames.len(), 3, height as usize, width as usize);
        let x = Tensor::from_vec(planes, shape, &Device::Cpu)?.to_device(device)?; // (n, 3, h, w), u8
        // (value / 255 - mean) / std as one multiplication and one addition.
        let channels = |values: [f32; 3]| Tensor::new(&values, device)?.reshape((1, 3, 1, 1));
        let scale = channels(self.std.map(|std| 1.0 / (255.0 * std)))?;
        let shift = channels([0, 1, 2].map(|c| -self.mean[c] / self.std[c]))?;
        let mut x = x.to_dtype(DType::F32)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        for (axis, length) in [(2, height), (3, width)] {
            let missing = self.size.saturating_sub(length) as usize;
            x = x.pad_with_zeros(axis, missing / 2, missing - missing / 2)?; // (n, 3, size, size) after both
        }
        Ok(x.to_dtype(dtype)?)
    }
}

/// Returns `length * size / longer`, rounded half up, at least 1.
fn scaled(length: u32, size: u32, longer: u32) -> u32 {
    let (length, size, longer) = (u64::from(length), u64::from(size), u64::from(longer));
    (((2 * length * size + longer) / (2 * longer)) as u32).max(1)
}
