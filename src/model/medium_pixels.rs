//! Pixels of a medium: different pictures, and the frames that show them.

use candle_core::Tensor;

use crate::error::Result;

/// Pixels of one medium, normalised for the vision encoder.
#[derive(Debug, Clone)]
pub struct MediumPixels {
    /// Pixels of the different pictures (p, 3, h, w).
    pub pictures: Tensor,
    /// Index of the picture that each of the t frames shows; `None` if the frames are the pictures.
    pub shown: Option<Vec<u32>>,
}

impl From<Tensor> for MediumPixels {
    /// Takes the pixels of frames that are all different (t, 3, h, w).
    fn from(pictures: Tensor) -> Self {
        Self { pictures, shown: None }
    }
}

impl MediumPixels {
    /// Returns the number of frames t.
    ///
    /// # Errors
    /// The pixels are a scalar.
    pub fn frames(&self) -> Result<usize> {
        match &self.shown {
            Some(shown) => Ok(shown.len()),
            None => Ok(self.pictures.dim(0)?),
        }
    }

    /// Returns the pixels of all frames, repeated pictures included (t, 3, h, w).
    ///
    /// # Errors
    /// A frame shows a picture that does not exist.
    pub fn repeated(&self) -> Result<Tensor> {
        match &self.shown {
            Some(shown) => {
                Ok(self.pictures.index_select(&Tensor::new(&shown[..], self.pictures.device())?, 0)?)
            }
            None => Ok(self.pictures.clone()),
        }
    }
}

/// Maps features of pictures (sum of p, s, d) to features of frames (sum of t, s, d).
pub(super) fn place_at_moments(features: &Tensor, media: &[MediumPixels]) -> Result<Tensor> {
    if media.iter().all(|m| m.shown.is_none()) {
        return Ok(features.clone());
    }
    let mut indices = Vec::new();
    let mut first = 0;
    for medium in media {
        let pictures = medium.pictures.dim(0)? as u32;
        match &medium.shown {
            Some(shown) => indices.extend(shown.iter().map(|picture| first + picture)),
            None => indices.extend(first..first + pictures),
        }
        first += pictures;
    }
    Ok(features.index_select(&Tensor::new(indices, features.device())?, 0)?)
}
