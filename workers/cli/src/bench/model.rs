//! The measured model: a model directory, or a shape with placeholder weights.

use std::path::{Path, PathBuf};

use candle_core::Device;
use flamingo::family::native::NativeConfig;
use flamingo::family::shape::{MEDIA_TOKEN, ModelShape};
use flamingo::family::{self, LoadOptions};
use flamingo::language::gguf::Gguf;
use flamingo::model::Flamingo;
use flamingo::vision::{self, VisionEncoder};
use flamingo::weights::{Quantization, Weights};

use super::cost::{CostModel, dense_language_bytes};

/// A shape, the source of its weights, and their storage format.
pub struct BenchModel {
    pub shape: ModelShape,
    pub options: LoadOptions,
    /// Model directory; `None` for placeholder weights.
    directory: Option<PathBuf>,
    language_bytes: usize,
    /// Storage of the language model's weights: `dense` or `quantised`.
    pub language_weights: &'static str,
}

impl BenchModel {
    /// A shape with placeholder weights.
    pub fn of_shape(shape: ModelShape, options: LoadOptions) -> Self {
        let language_bytes = dense_language_bytes(&shape.language.sizes(), options.dtype.size_in_bytes());
        Self { shape, options, directory: None, language_bytes, language_weights: "dense" }
    }

    /// The model of a directory.
    ///
    /// # Errors
    /// As [`ModelShape::of`].
    pub fn of_directory(directory: &Path, options: LoadOptions) -> anyhow::Result<Self> {
        let shape = ModelShape::of(directory)?;
        let file = directory.join(NativeConfig::read(directory)?.language.file);
        let dense = dense_language_bytes(&shape.language.sizes(), options.dtype.size_in_bytes());
        let language_bytes = match file.is_dir() {
            true => dense,
            false => Gguf::open(&file)?.bytes_per_pass(&options.device, options.dtype, options.quantization),
        };
        let quantised = options.quantization != Quantization::Dequantize && language_bytes < dense;
        let language_weights = if quantised { "quantised" } else { "dense" };
        let directory = Some(directory.to_path_buf());
        Ok(Self { shape, options, directory, language_bytes, language_weights })
    }

    pub fn device(&self) -> &Device {
        &self.options.device
    }

    /// Counts the operations and bytes of the stages.
    pub fn cost_model(&self) -> CostModel<'_> {
        CostModel {
            shape: &self.shape,
            dtype_bytes: self.options.dtype.size_in_bytes(),
            language_bytes: self.language_bytes,
        }
    }

    /// Bytes of all weights on the device.
    pub fn bytes(&self) -> usize {
        let (p, dtype_bytes) = (self.cost_model().parameters(), self.options.dtype.size_in_bytes());
        let language = self.shape.language.sizes();
        let lookup_only = if language.tied { 0 } else { language.vocabulary * language.width };
        (p.vision + p.connector + p.cross_attention + lookup_only) * dtype_bytes + self.language_bytes
    }

    /// Builds the vision encoder alone.
    ///
    /// # Errors
    /// The weights do not match the description of the directory, or the device reports an error.
    pub fn encoder(&self) -> anyhow::Result<Box<dyn VisionEncoder>> {
        let weights = match &self.directory {
            None => Weights::placeholder(&self.options.device, self.options.dtype)?,
            Some(directory) => NativeConfig::read(directory)?.adapters(directory, &self.options)?,
        };
        Ok(vision::build(&self.shape.vision, &weights.pp("vision"))?)
    }

    /// Builds the whole model, and returns it with its media token.
    ///
    /// # Errors
    /// As [`encoder`](Self::encoder), and for a directory as [`family::open`].
    pub fn flamingo(&self) -> anyhow::Result<(Flamingo, u32)> {
        match &self.directory {
            Some(directory) => {
                let loaded = family::open(directory, &self.options)?;
                let media_token = loaded.model.media_token();
                Ok((loaded.model, media_token))
            }
            None => {
                let weights = Weights::placeholder(&self.options.device, self.options.dtype)?;
                Ok((self.shape.build(&weights)?, MEDIA_TOKEN))
            }
        }
    }
}
