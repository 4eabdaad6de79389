//! Media: from frames to visual tokens, keys and values.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use image::RgbImage;

use super::Pipeline;
use crate::error::{Error, Result};
use crate::family::{FrameMode, Loaded};
use crate::kernels::attention::Kv;
use crate::kernels::threads::on_rayon;
use crate::model::{EncodedMedium, MediaKv, MediumPixels};
use crate::video::Frame;
use crate::vision::Preprocess;

/// Visual tokens of one video or image, reusable for any number of prompts.
#[derive(Debug, Clone)]
pub struct Medium {
    /// Visual tokens (q, d).
    pub visual_tokens: Tensor,
    /// Presentation time of the frame that is shown at every sampled moment, in seconds after the first frame of the video.
    pub frame_times: Vec<f64>,
    /// Mean of its vision features over patches and frames (d), which finds similar media. A medium of visual tokens alone
    /// has none.
    pub features: Option<Tensor>,
    /// Number of first visual tokens that are visible, if the others are padding that some positions attend to.
    pub visible: Option<usize>,
    /// Keys and values at every gated cross-attention, projected on first use. Clones share them.
    kv: Arc<OnceLock<Arc<MediaKv>>>,
}

impl Medium {
    /// Creates a medium of visual tokens (q, d).
    pub fn new(visual_tokens: Tensor, frame_times: Vec<f64>) -> Self {
        Self { visual_tokens, frame_times, features: None, visible: None, kv: Arc::default() }
    }
}

impl Pipeline {
    /// Resizes a frame for the encoder, so that the caller can drop the original.
    pub fn prepare(&self, frame: &Frame) -> Frame {
        let image = self.loaded.preprocess.frame(&frame.image);
        Frame { pts: frame.pts, moments: frame.moments.clone(), image }
    }

    /// Returns the normalised pixels of prepared frames, each shown at all its moments.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn pixels(&self, prepared: &[Frame]) -> Result<MediumPixels> {
        let Pipeline { loaded, options } = self;
        if loaded.frame_mode != FrameMode::Joint {
            return self.chosen_pixels(prepared);
        }
        let images: Vec<_> = prepared.iter().map(|f| &f.image).collect();
        let pictures = loaded.preprocess.pixels(&images, &options.device, options.dtype)?;
        let repeats = prepared.iter().any(|frame| frame.moments.len() != 1);
        let shown = || prepared.iter().zip(0..).flat_map(|(f, picture)| vec![picture; f.moments.len()]);
        let grids = loaded.preprocess.grids(&images)?;
        Ok(MediumPixels { pictures, grids, shown: repeats.then(|| shown().collect()) })
    }

    /// Returns the pixels of the frames that a model without temporal training takes, or of their contact sheet.
    fn chosen_pixels(&self, prepared: &[Frame]) -> Result<MediumPixels> {
        let Loaded { preprocess, frame_mode, .. } = &self.loaded;
        let chosen = frame_mode.choose(prepared.len()).into_iter().map(|i| &prepared[i].image);
        let chosen: Vec<Cow<RgbImage>> = match frame_mode {
            FrameMode::Sheet if prepared.len() > 1 => {
                vec![Cow::Owned(preprocess.sheet(&chosen.collect::<Vec<_>>()))]
            }
            FrameMode::Sheet | FrameMode::Joint | FrameMode::Sequence | FrameMode::Captions => {
                chosen.map(Cow::Borrowed).collect()
            }
        };
        let images: Vec<&RgbImage> = chosen.iter().map(AsRef::as_ref).collect();
        let pictures = preprocess.pixels(&images, &self.options.device, self.options.dtype)?;
        Ok(MediumPixels { pictures, grids: preprocess.grids(&images)?, shown: None })
    }

    /// Encodes one medium: prepared frames -> visual tokens.
    ///
    /// # Errors
    /// There are no frames, or the device refuses an operation.
    pub fn encode(&self, prepared: &[Frame]) -> Result<Medium> {
        Ok(self.encode_batch(&[prepared])?.remove(0))
    }

    /// Encodes several media, with their frames in the same passes of the vision encoder.
    ///
    /// # Errors
    /// A medium has no frames, or the device refuses an operation.
    pub fn encode_batch(&self, media: &[&[Frame]]) -> Result<Vec<Medium>> {
        if media.iter().any(|frames| frames.is_empty()) {
            return Err(Error::Prompt("a medium without frames".into()));
        }
        let pixels = media.iter().map(|frames| self.pixels(frames)).collect::<Result<Vec<_>>>()?;
        let times = |frames: &&[Frame]| frames.iter().flat_map(|f| vec![f.pts; f.moments.len()]).collect();
        self.encode_pixels(&pixels, media.iter().map(times).collect())
    }

    /// Encodes pixels, of media with these frame times.
    fn encode_pixels(&self, pixels: &[MediumPixels], frame_times: Vec<Vec<f64>>) -> Result<Vec<Medium>> {
        let encoded = on_rayon(|| self.loaded.model.encode(pixels, None))?;
        tracing::debug!(media = pixels.len(), "encoded");
        let medium = |((encoded, times), pixels): ((EncodedMedium, _), &MediumPixels)| {
            let EncodedMedium { visual_tokens, features } = encoded;
            let visible = Some(self.loaded.model.visible_tokens(pixels, visual_tokens.dim(0)?)?);
            Ok(Medium { visible, features: Some(features), ..Medium::new(visual_tokens, times) })
        };
        encoded.into_iter().zip(frame_times).zip(pixels).map(medium).collect()
    }

    /// Encodes a medium with the frame times of `medium` whose frames have the mean colour only. The likelihood of an answer
    /// over it shows how much the answer owes to the text.
    ///
    /// # Errors
    /// The device refuses an operation.
    pub fn encode_blank(&self, medium: &Medium) -> Result<Medium> {
        let Preprocess { size, mean, .. } = self.loaded.preprocess;
        let colour = image::Rgb(mean.map(|x| (255.0 * x).round() as u8));
        let picture = RgbImage::from_pixel(size, size, colour);
        let times = &medium.frame_times;
        let pixels = match self.loaded.frame_mode {
            FrameMode::Joint => {
                let one = self.pixels(&[self.prepare(&Frame::at(0.0, picture))])?;
                MediumPixels { shown: Some(vec![0; times.len()]), ..one }
            }
            FrameMode::Sheet | FrameMode::Sequence | FrameMode::Captions => {
                let frame = |time: &f64| self.prepare(&Frame::at(*time, picture.clone()));
                self.pixels(&times.iter().map(frame).collect::<Vec<_>>())?
            }
        };
        Ok(self.encode_pixels(&[pixels], vec![times.clone()])?.remove(0))
    }

    /// Returns the keys and values of a medium at every gated cross-attention. The medium keeps them, so they are projected
    /// once for all prompts.
    ///
    /// # Errors
    /// The visual tokens have another width than the model expects.
    pub fn media_kv(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        if let Some(kv) = medium.kv.get() {
            return Ok(kv.clone());
        }
        let kv = self.project_media(medium)?;
        Ok(medium.kv.get_or_init(|| kv).clone())
    }

    /// Projects a medium to keys and values at every gated cross-attention, for a cache with a budget of its own.
    ///
    /// # Errors
    /// The visual tokens have another width than the model expects.
    pub fn project_media(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        let kv = on_rayon(|| self.project(medium))?;
        tracing::debug!(bytes = kv.bytes(), "projected");
        Ok(kv)
    }

    fn project(&self, medium: &Medium) -> Result<Arc<MediaKv>> {
        let model = &self.loaded.model;
        if medium.visible.is_none() && model.attends_to_padding() {
            return Err(Error::Prompt("stored visual tokens do not tell which of them are padding".into()));
        }
        let kv = |medium: &Medium| {
            let q = medium.visual_tokens.dim(0)?;
            model.padded_media_kv(&medium.visual_tokens, medium.visible.unwrap_or(q))
        };
        let pictures = match self.loaded.frame_mode {
            FrameMode::Sequence => self.pictures(medium)?,
            FrameMode::Joint | FrameMode::Sheet | FrameMode::Captions => Vec::new(),
        };
        match pictures.len() {
            0 | 1 => kv(medium),
            _ => Ok(Arc::new(MediaKv::sequence(pictures.iter().map(kv).collect::<Result<_>>()?))),
        }
    }

    /// Divides a medium whose frames are pictures of their own into media of one picture each.
    pub(super) fn pictures(&self, medium: &Medium) -> Result<Vec<Medium>> {
        let times = self.loaded.frame_mode.times(&medium.frame_times);
        let PictureTokens { visible: own, padding, .. } = picture_tokens(medium, times.len())?;
        let visible = own * times.len();
        let picture = |(i, &time): (usize, &f64)| {
            let tokens = medium.visual_tokens.narrow(0, i * own, own)?;
            let padding = medium.visual_tokens.narrow(0, visible + i * padding, padding)?;
            let visible = medium.visible.map(|_| own);
            Ok(Medium { visible, ..Medium::new(Tensor::cat(&[tokens, padding], 0)?, vec![time]) })
        };
        times.iter().enumerate().map(picture).collect()
    }

    fn picture_tokens(&self, medium: &Medium) -> Result<PictureTokens> {
        let pictures = match self.loaded.frame_mode {
            FrameMode::Sequence => self.loaded.frame_mode.times(&medium.frame_times).len(),
            FrameMode::Joint | FrameMode::Sheet | FrameMode::Captions => 1,
        };
        picture_tokens(medium, pictures)
    }

    /// Returns the shapes of the [tensors](MediaKv::tensors) of the keys and values of a medium, without computing them.
    ///
    /// # Errors
    /// The medium cannot be divided into its pictures.
    pub fn media_kv_shapes(&self, medium: &Medium) -> Result<Vec<(usize, usize, usize)>> {
        let PictureTokens { pictures, visible, padding } = self.picture_tokens(medium)?;
        let tokens = [visible, padding].into_iter().filter(|&q| q > 0);
        let of_picture: Vec<_> = tokens
            .flat_map(|q| self.loaded.model.media_kv_shapes(q))
            .flat_map(|shape| [shape, shape])
            .collect();
        Ok(of_picture.repeat(pictures))
    }

    /// Joins the [tensors](MediaKv::tensors) of the keys and values of a medium.
    ///
    /// # Errors
    /// The medium cannot be divided into its pictures, or tensors are missing.
    pub fn join_media_kv(&self, medium: &Medium, tensors: Vec<Tensor>) -> Result<Arc<MediaKv>> {
        let PictureTokens { pictures, padding, .. } = self.picture_tokens(medium)?;
        let layers = self.loaded.model.media_kv_shapes(0).len();
        let mut pairs = tensors.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        let mut next = || {
            let own: Vec<Kv> = pairs.by_ref().take(layers).collect();
            if own.len() == layers { Ok(own) } else { Err(Error::Prompt("media K/V are incomplete".into())) }
        };
        let mut picture = || {
            let own = next()?;
            let padding = if padding == 0 { None } else { Some(Arc::new(MediaKv::new(next()?, None))) };
            Ok(Arc::new(MediaKv::new(own, padding)))
        };
        match pictures {
            1 => picture(),
            _ => Ok(Arc::new(MediaKv::sequence((0..pictures).map(|_| picture()).collect::<Result<_>>()?))),
        }
    }
}

/// Visual tokens of each picture of a medium.
struct PictureTokens {
    pictures: usize,
    visible: usize,
    padding: usize,
}

/// Divides the visual tokens of a medium evenly among its pictures.
fn picture_tokens(medium: &Medium, pictures: usize) -> Result<PictureTokens> {
    let q = medium.visual_tokens.dim(0)?;
    let visible = medium.visible.unwrap_or(q);
    if pictures == 0 || !visible.is_multiple_of(pictures) || !(q - visible).is_multiple_of(pictures) {
        return Err(Error::Prompt(format!("{q} visual tokens, {visible} visible, of {pictures} pictures")));
    }
    Ok(PictureTokens { pictures, visible: visible / pictures, padding: (q - visible) / pictures })
}
