//! Frames of any size -> normalised pixels of the size that the encoder was trained on.

use std::borrow::Borrow;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::{Deserialize, Deserializer, Serialize};

use super::resize::{bicubic, bicubic_part};
use super::tiles::{TileGrid, grid_of, on_canvas, sheet};
use crate::error::{Error, Result};

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
    /// Resizes into a canvas of at most `slots` square tiles of side `size`: Llama 3.2 Vision.
    Tiles {
        /// Tiles that the encoder takes, 1 to 16; a picture leaves some of them empty.
        #[serde(deserialize_with = "slots")]
        slots: u32,
    },
}

fn side<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    checked(u32::deserialize(from)?, |side| (1..=4096).contains(side), "size must be 1 to 4096")
}

fn slots<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    checked(u32::deserialize(from)?, |slots| (1..=16).contains(slots), "slots must be 1 to 16")
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
    /// Checks the sizes and the channels, as reading a description does.
    ///
    /// # Errors
    /// The field that is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let json = serde_json::to_value(self).map_err(|e| e.to_string())?;
        Self::deserialize(json).map(|_| ()).map_err(|e| e.to_string())
    }

    /// Resizes a frame, bit-equal to Pillow's bicubic. For `squash` and `crop` the result is `size` x `size`.
    /// For `pad` it is the picture without its border, `size` on the longer side: the mean is not a multiple
    /// of 1/255, so [`pixels`](Self::pixels) adds the border, where it is exactly 0. For `tiles` it is the canvas.
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
            Fit::Tiles { slots } => on_canvas(image, self.size, slots),
        }
    }

    /// Returns the tile grid of each frame made by [`frame`](Self::frame); `None` if the encoder takes no tiles.
    ///
    /// # Errors
    /// A frame was not made by [`frame`](Self::frame).
    pub fn grids(&self, frames: &[impl Borrow<RgbImage>]) -> Result<Option<Vec<TileGrid>>> {
        let Fit::Tiles { slots } = self.fit else { return Ok(None) };
        let grid = |frame: &RgbImage| {
            let (width, height) = frame.dimensions();
            grid_of(frame, self.size).filter(|grid| grid.id(slots).is_some()).ok_or_else(|| {
                let side = self.size;
                Error::Prompt(format!(
                    "a frame of {width}x{height} pixels is no canvas of at most {slots} tiles of {side}"
                ))
            })
        };
        frames.iter().map(|frame| grid(frame.borrow())).collect::<Result<_>>().map(Some)
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

    /// Returns the bytes of the largest frame made by [`frame`](Self::frame).
    pub fn frame_bytes(&self) -> u64 {
        let side = u64::from(self.size);
        3 * side * side * u64::from(self.fit.slots().unwrap_or(1))
    }

    /// Draws frames made by [`frame`](Self::frame) into one frame, in rows from the top left: 16 at most.
    pub fn sheet(&self, frames: &[&RgbImage]) -> RgbImage {
        self.frame(&sheet(frames, self.size, self.fit.slots().unwrap_or(1)))
    }

    /// Normalises frames made by [`frame`](Self::frame) -> (n, 3, size, size) in `dtype` on `device`; for `tiles` -> (n, slots,
    /// 3, size, size), tiles in rows from the top left, and 0 in the slots that a frame leaves empty.
    ///
    /// The bytes are copied to the device once, as u8. Consecutive frames of the same size are copied
    /// together.
    ///
    /// # Errors
    /// The tensor library refused an operation.
    pub fn pixels(&self, frames: &[impl Borrow<RgbImage>], device: &Device, dtype: DType) -> Result<Tensor> {
        let frames: Vec<&RgbImage> = frames.iter().map(Borrow::borrow).collect();
        if frames.is_empty() {
            let (side, slots) = (self.size as usize, self.fit.slots().map(|slots| slots as usize));
            let shape = [0].into_iter().chain(slots).chain([3, side, side]).collect::<Vec<_>>();
            return Ok(Tensor::zeros(shape, dtype, device)?);
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
        if let Some(slots) = self.fit.slots() {
            return Ok(self.cut(&x, slots as usize)?.to_dtype(dtype)?);
        }
        for (axis, length) in [(2, height), (3, width)] {
            let missing = self.size.saturating_sub(length) as usize;
            x = x.pad_with_zeros(axis, missing / 2, missing - missing / 2)?; // (n, 3, size, size) after both
        }
        Ok(x.to_dtype(dtype)?)
    }

    /// Cuts canvases (n, 3, h, w) into tiles -> (n, slots, 3, size, size).
    fn cut(&self, canvases: &Tensor, slots: usize) -> Result<Tensor> {
        let (n, _, height, width) = canvases.dims4()?;
        let side = self.size as usize;
        let (rows, columns) = (height / side, width / side);
        let tiles =
            canvases.reshape(&[n, 3, rows, side, columns, side][..])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let tiles = tiles.reshape((n, rows * columns, 3, side, side))?;
        Ok(tiles.pad_with_zeros(1, 0, slots.saturating_sub(rows * columns))?)
    }
}

impl Fit {
    /// Returns the tiles that the encoder takes, if it takes tiles.
    fn slots(self) -> Option<u32> {
        match self {
            Fit::Tiles { slots } => Some(slots),
            Fit::Pad | Fit::Squash { .. } | Fit::Crop => None,
        }
    }
}

/// Returns `length * size / longer`, rounded half up, at least 1.
fn scaled(length: u32, size: u32, longer: u32) -> u32 {
    let (length, size, longer) = (u64::from(length), u64::from(size), u64::from(longer));
    (((2 * length * size + longer) / (2 * longer)) as u32).max(1)
}
