//! Frames as they come -> frames as the encoder was trained on them.

use candle_core::{DType, Device, Tensor};
use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};

use super::resize::bicubic;
use crate::error::Result;

/// How frames of any size become the encoder's square ones.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    pub fit: Fit,
    /// Side of the encoder's input in pixels.
    pub size: u32,
    /// Per channel, of values in 0..1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Fit {
    /// The longer side becomes `size`, the rest is filled with the mean, half on either side (the paper, section
    /// 4.1.4 of its first version).
    Pad,
    /// Both sides become `floor(size / crop)`, aspect not kept, then the centre is cut out: timm's `squash` with its
    /// `crop_pct`. IDEFICS is the same with 1.
    Squash { crop: f64 },
    /// The shorter side becomes `size`, then the centre is cut out: CLIP, open_clip.
    Crop,
}

impl Preprocess {
    /// Resizes, bit-equal to Pillow's bicubic. For `squash` and `crop` the result is `size` x `size`; for `pad` it is
    /// the picture without its border, `size` on the longer side: the mean is no whole number of 255ths, so the
    /// border is added by [`pixels`](Self::pixels), where it is exactly 0.
    pub fn frame(&self, image: &RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        match self.fit {
            Fit::Pad => {
                let longer = width.max(height);
                bicubic(image, scaled(width, self.size, longer), scaled(height, self.size, longer))
            }
            Fit::Squash { crop } => {
                let side = ((f64::from(self.size) / crop).floor() as u32).max(self.size);
                centre(&bicubic(image, side, side), self.size)
            }
            Fit::Crop => {
                // As torchvision: the longer side is cut down to a whole number, not rounded.
                let longer = |a: u32, b: u32| (u64::from(self.size) * u64::from(a) / u64::from(b)) as u32;
                let (w, h) = if width <= height {
                    (self.size, longer(height, width))
                } else {
                    (longer(width, height), self.size)
                };
                centre(&bicubic(image, w, h), self.size)
            }
        }
    }

    /// Frames made by [`frame`](Self::frame) -> (n, 3, size, size), normalised, in `dtype`, on `device`.
    ///
    /// The bytes cross to the device once, as u8; frames that follow each other with the same size cross together.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn pixels(&self, frames: &[RgbImage], device: &Device, dtype: DType) -> Result<Tensor> {
        if frames.is_empty() {
            return Ok(Tensor::zeros((0, 3, self.size as usize, self.size as usize), dtype, device)?);
        }
        let same_size = frames.chunk_by(|a, b| a.dimensions() == b.dimensions());
        let parts = same_size.map(|run| self.normalised(run, device, dtype)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn normalised(&self, frames: &[RgbImage], device: &Device, dtype: DType) -> Result<Tensor> {
        let (width, height) = frames[0].dimensions();
        let bytes = frames.iter().flat_map(|f| f.as_raw().iter().copied()).collect::<Vec<u8>>();
        let shape = (frames.len(), height as usize, width as usize, 3);
        let x = Tensor::from_vec(bytes, shape, &Device::Cpu)?.to_device(device)?; // (n, h, w, 3)
        // (value / 255 - mean) / std as one product and one sum.
        let channels =
            |f: &dyn Fn(usize) -> f32| Tensor::new(&[f(0), f(1), f(2)], device)?.reshape((1, 3, 1, 1));
        let scale = channels(&|c| 1.0 / (255.0 * self.std[c]))?;
        let shift = channels(&|c| -self.mean[c] / self.std[c])?;
        let x = x.permute((0, 3, 1, 2))?.to_dtype(DType::F32)?.contiguous()?; // (n, 3, h, w)
        let mut x = x.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        for (axis, length) in [(2, height), (3, width)] {
            let missing = self.size.saturating_sub(length) as usize;
            x = x.pad_with_zeros(axis, missing / 2, missing - missing / 2)?; // (n, 3, size, size) after both
        }
        Ok(x.to_dtype(dtype)?)
    }
}

/// `length * size / longer`, rounded half up, at least 1.
fn scaled(length: u32, size: u32, longer: u32) -> u32 {
    let (length, size, longer) = (u64::from(length), u64::from(size), u64::from(longer));
    (((2 * length * size + longer) / (2 * longer)) as u32).max(1)
}

/// The middle `side` x `side` pixels, where torchvision's `CenterCrop` sees the middle.
fn centre(image: &RgbImage, side: u32) -> RgbImage {
    // Python's `round` takes halves to the even number.
    let start = |length: u32| (f64::from(length - side) / 2.0).round_ties_even() as u32;
    let (x, y) = (start(image.width()), start(image.height()));
    imageops::crop_imm(image, x, y, side, side).to_image()
}
