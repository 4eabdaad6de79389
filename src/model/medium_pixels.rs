//! Pixels of a medium: different pictures, and the frames that show them.

use candle_core::Tensor;

use crate::error::Result;
use crate::vision::TileGrid;

/// Pixels of one medium, normalised for the vision encoder.
#[derive(Debug, Clone)]
pub struct MediumPixels {
    /// Pixels of the different pictures (p, 3, h, w); of their tiles (p, slots, 3, h, w) if there are grids.
    pub pictures: Tensor,
    /// Tile grid of each picture; `None` if the encoder takes no tiles.
    pub grids: Option<Vec<TileGrid>>,
    /// Index of the picture that each of the t frames shows; `None` if the frames are the pictures.
    pub shown: Option<Vec<u32>>,
}

impl From<Tensor> for MediumPixels {
    /// Takes the pixels of frames that are all different (t, 3, h, w).
    fn from(pictures: Tensor) -> Self {
        Self { pictures, grids: None, shown: None }
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

    /// Returns the number of the s features of each frame that show the picture, not an empty tile (t).
    pub(super) fn visible(&self, s: usize) -> Result<Vec<usize>> {
        let Some(grids) = &self.grids else { return Ok(vec![s; self.frames()?]) };
        let per_tile = s / self.pictures.dim(1)?;
        let visible = |&picture: &u32| grids.get(picture as usize).map_or(0, |grid| grid.tiles() * per_tile);
        Ok(match &self.shown {
            Some(shown) => shown.iter().map(visible).collect(),
            None => (0..grids.len() as u32).map(|picture| visible(&picture)).collect(),
        })
    }

    /// Returns the pixels with one picture per frame, repeated pictures included.
    ///
    /// # Errors
    /// A frame shows a picture that does not exist.
    pub fn repeated(&self) -> Result<Self> {
        let Some(shown) = &self.shown else { return Ok(self.clone()) };
        let pictures = self.pictures.index_select(&Tensor::new(&shown[..], self.pictures.device())?, 0)?;
        let grids = |grids: &Vec<TileGrid>| shown.iter().map(|&picture| grids[picture as usize]).collect();
        Ok(Self { pictures, grids: self.grids.as_ref().map(grids), shown: None })
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

/// Orders the features of one medium (t, s, d): the visible ones of all frames (q, d) first, then, with `padding`, the others.
pub(super) fn visible_first(features: &Tensor, visible: &[usize], padding: bool) -> Result<Tensor> {
    let s = features.dim(1)?;
    let mut parts = Vec::with_capacity(2 * visible.len());
    for (frame, &n) in visible.iter().enumerate() {
        parts.push(features.get(frame)?.narrow(0, 0, n)?);
    }
    for (frame, &n) in visible.iter().enumerate().filter(|(_, n)| padding && **n < s) {
        parts.push(features.get(frame)?.narrow(0, n, s - n)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}
