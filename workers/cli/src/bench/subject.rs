//! What is measured: a model directory, or a shape that nobody has trained.

use std::path::{Path, PathBuf};

use candle_core::Device;
use flamingo::family::native::NativeConfig;
use flamingo::family::shape::{MEDIA_TOKEN, ModelShape};
use flamingo::family::{self, LoadOptions};
use flamingo::language::gguf::Gguf;
use flamingo::model::Flamingo;
use flamingo::vision::{self, VisionEncoder};
use flamingo::weights::{Quantization, Weights};

use super::work::{Counter, dense_language_bytes};

/// A shape, where its weights come from, and how they are stored.
pub struct Subject {
    pub shape: ModelShape,
    pub options: LoadOptions,
    /// None: placeholders.
    directory: Option<PathBuf>,
    language_bytes: usize,
    /// The language model's weights, in words.
    pub language_weights: &'static str,
}

impl Subject {
    pub fn of_shape(shape: ModelShape, options: LoadOptions) -> Self {
        let language_bytes = dense_language_bytes(&shape.language, options.dtype.size_in_bytes());
        Self { shape, options, directory: None, language_bytes, language_weights: "dense" }
    }

    /// # Errors
    /// As [`ModelShape::of`].
    pub fn of_directory(directory: &Path, options: LoadOptions) -> anyhow::Result<Self> {
        let shape = ModelShape::of(directory)?;
        let file = directory.join(NativeConfig::read(directory)?.language.file);
        let dense = dense_language_bytes(&shape.language, options.dtype.size_in_bytes());
        let language_bytes = match file.is_dir() {
            true => dense,
            false => Gguf::open(&file)?.bytes_per_pass(&options.device, options.dtype, options.quantization),
        };
        let quantised = options.quantization == Quantization::Keep && language_bytes < dense;
        let language_weights = if quantised { "quantised" } else { "dense" };
        let directory = Some(directory.to_path_buf());
        Ok(Self { shape, options, directory, language_bytes, language_weights })
    }

    pub fn device(&self) -> &Device {
        &self.options.device
    }

    pub fn counter(&self) -> Counter<'_> {
        Counter {
            shape: &self.shape,
            number: self.options.dtype.size_in_bytes(),
            language_bytes: self.language_bytes,
        }
    }

    /// Bytes of all weights on the device.
    pub fn bytes(&self) -> usize {
        let (p, number) = (self.counter().parameters(), self.options.dtype.size_in_bytes());
        let language = &self.shape.language;
        let looked_up = if language.tied { 0 } else { language.vocabulary * language.width };
        (p.vision + p.resampler + p.cross_attention + looked_up) * number + self.language_bytes
    }

    /// The vision encoder alone.
    ///
    /// # Errors
    /// The directory's weights do not fit its description, or the device refuses.
    pub fn encoder(&self) -> anyhow::Result<Box<dyn VisionEncoder>> {
        let weights = match &self.directory {
            None => Weights::placeholder(&self.options.device, self.options.dtype)?,
            Some(directory) => NativeConfig::read(directory)?.adapters(directory, &self.options)?,
        };
        Ok(vision::build(&self.shape.vision, &weights.pp("vision"))?)
    }

    /// The whole, and the token that marks a medium.
    ///
    /// # Errors
    /// As [`encoder`](Self::encoder), and for a directory as [`family::open`].
    pub fn flamingo(&self) -> anyhow::Result<(Flamingo, u32)> {
        match &self.directory {
            Some(directory) => {
                let loaded = family::open(directory, &self.options)?;
                Ok((loaded.model, loaded.tokens.media))
            }
            None => {
                let weights = Weights::placeholder(&self.options.device, self.options.dtype)?;
                Ok((self.shape.build(&weights)?, MEDIA_TOKEN))
            }
        }
    }
}
