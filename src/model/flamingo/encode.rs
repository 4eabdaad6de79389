//! From the pixels of media to their visual tokens.

use std::sync::atomic::Ordering;

use candle_core::Tensor;

use super::{Flamingo, Observer};
use crate::error::Result;
use crate::model::config::MediaAttention;
use crate::model::medium_pixels::{MediumPixels, place_at_moments, visible_first};

/// Frames per pass of the vision encoder: bounds its memory, whatever the length of a video.
const FRAMES_PER_PASS: usize = 8;

/// A medium after the vision encoder and the connector.
pub struct EncodedMedium {
    /// Visual tokens (q, d).
    pub visual_tokens: Tensor,
    /// Mean of the vision features over patches and frames (d of the encoder).
    pub features: Tensor,
}

impl Flamingo {
    /// Encodes several media. Of pictures of tiles, the visual tokens of empty tiles are dropped, unless the media attention
    /// needs them: then they come last, as [`visible_tokens`](Self::visible_tokens) counts.
    ///
    /// # Errors
    /// The media differ in size, or the device refuses an operation.
    pub fn encode(
        &self,
        media: &[MediumPixels],
        mut observe: Option<Observer>,
    ) -> Result<Vec<EncodedMedium>> {
        self.media_encoded.fetch_add(media.len() as u64, Ordering::Relaxed);
        let features = place_at_moments(&self.features(media)?, media)?; // (sum of t, s, d)
        if let Some(observe) = observe.as_deref_mut() {
            observe.stage("features", &features)?;
        }
        let lengths = media.iter().map(MediumPixels::frames).collect::<Result<Vec<_>>>()?;
        let tokens = match media.iter().any(|medium| medium.grids.is_some()) {
            false => self.connect(&features, &lengths)?,
            true => self.connect_tiles(&features, media)?,
        };
        if let Some(observe) = observe {
            let same = tokens.windows(2).all(|pair| pair[0].dims() == pair[1].dims());
            let all = if same { Tensor::stack(&tokens, 0)? } else { Tensor::cat(&tokens, 0)? };
            observe.stage("visual_tokens", &all)?;
        }
        let mut start = 0;
        let encoded = |((visual_tokens, length), medium): ((Tensor, usize), &MediumPixels)| {
            let own = features.narrow(0, start, length)?;
            start += length;
            let shown = match medium.grids {
                Some(_) => visible_first(&own, &medium.visible(own.dim(1)?)?, false)?,
                None => own.flatten_to(1)?,
            };
            Ok(EncodedMedium { visual_tokens, features: shown.mean(0)? })
        };
        tokens.into_iter().zip(lengths).zip(media).map(encoded).collect()
    }

    /// Returns the visual tokens of several media (q, d).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn visual_tokens(&self, media: &[MediumPixels], observe: Option<Observer>) -> Result<Vec<Tensor>> {
        Ok(self.encode(media, observe)?.into_iter().map(|medium| medium.visual_tokens).collect())
    }

    /// Encodes the different pictures of all media: (sum of p, s, d).
    fn features(&self, media: &[MediumPixels]) -> Result<Tensor> {
        let pictures = Tensor::cat(&media.iter().map(|m| &m.pictures).collect::<Vec<_>>(), 0)?;
        let grids: Vec<_> = media.iter().flat_map(|medium| &medium.grids).flatten().copied().collect();
        let n = pictures.dim(0)?;
        let encode = |i: usize| {
            let len = FRAMES_PER_PASS.min(n - i);
            let pixels = pictures.narrow(0, i, len)?;
            match grids.get(i..i + len) {
                Some(grids) => self.parts.vision.encode_tiles(&pixels, grids),
                None => self.parts.vision.encode(&pixels),
            }
        };
        Ok(Tensor::cat(&(0..n).step_by(FRAMES_PER_PASS).map(encode).collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Maps the features of pictures of tiles (sum of t, s, d) to the visual tokens of each medium.
    fn connect_tiles(&self, features: &Tensor, media: &[MediumPixels]) -> Result<Vec<Tensor>> {
        let padding = self.attends_to_padding();
        let mut start = 0;
        let mut tokens = Vec::with_capacity(media.len());
        for medium in media {
            let visible = medium.visible(features.dim(1)?)?;
            let own = visible_first(&features.narrow(0, start, visible.len())?, &visible, padding)?;
            tokens.extend(self.connect(&own.unsqueeze(0)?, &[1])?);
            start += visible.len();
        }
        Ok(tokens)
    }

    /// Tells whether some positions attend to the padding of media.
    pub fn attends_to_padding(&self) -> bool {
        self.parts.rule.config.without_media.attention == MediaAttention::Unmasked
    }

    /// Returns the number of visible tokens among the first ones of the `q` visual tokens of a medium; the others are padding.
    ///
    /// # Errors
    /// The pixels are a scalar.
    pub fn visible_tokens(&self, pixels: &MediumPixels, q: usize) -> Result<usize> {
        match (&pixels.grids, self.attends_to_padding()) {
            (Some(_), true) => Ok(pixels.visible(q / pixels.frames()?.max(1))?.iter().sum()),
            (Some(_), false) | (None, _) => Ok(q),
        }
    }
}
