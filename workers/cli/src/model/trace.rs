//! `flamingo model trace`: writes every stage of one forward pass as a named tensor.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::Tensor;
use clap::Args;
use flamingo::Pipeline;
use flamingo::family::LoadOptions;
use flamingo::model::MediumPixels;
use flamingo::stage_trace::{split_pixels, trace};
use inference::context::Cancel;
use inference::decoder::{DecodeRequest, decode};

use crate::args::{ModelArgs, SamplingArgs};
use crate::output::write_file;
use crate::process::own_executable;

#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt: `<image>` or `<video>` marks the place of each medium, `<EOC>` the end of a chunk.
    #[arg(long, value_name = "TEXT", help_heading = "Trace")]
    prompt: String,
    /// Videos and images, in the order of the prompt.
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Trace")]
    media: Vec<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Preprocessed pixels instead of files: `pixels` (frames, 3, height, width), and optionally `lengths`, the number of
    /// frames of each medium, and `grids` (frames, 2), for a model that takes tiles.
    #[arg(long, value_name = "SAFETENSORS", conflicts_with = "media", help_heading = "Trace")]
    pixels: Option<PathBuf>,
    /// File for the tensors.
    #[arg(long, value_name = "SAFETENSORS", help_heading = "Trace")]
    out: PathBuf,
}

impl Trace {
    pub fn run(self) -> anyhow::Result<bool> {
        let pipeline = self.model.load()?;
        let media = match &self.pixels {
            Some(path) => read_pixels(path, pipeline.options())?,
            None => self
                .media
                .iter()
                .map(|path| self.decode_pixels(path, &pipeline))
                .collect::<anyhow::Result<_>>()?,
        };
        let stages = trace(&pipeline, &self.prompt, &media)?;
        for (name, tensor) in &stages {
            println!("{name:<16} {:?} {:?}", tensor.dtype(), tensor.dims());
        }
        let tensors: HashMap<String, Tensor> = stages.into_iter().collect();
        write_file(&self.out, &safetensors::serialize(&tensors, None)?)?;
        println!("written to {}", self.out.display());
        Ok(true)
    }

    /// Decodes and preprocesses one file.
    fn decode_pixels(&self, path: &Path, pipeline: &Pipeline) -> anyhow::Result<MediumPixels> {
        let request = DecodeRequest::new(path, self.sampling.sampling()?);
        let frames = decode(&own_executable()?, path, request, &Cancel::default())?
            .map(|frame| Ok(pipeline.prepare(&frame?)));
        let prepared = frames.collect::<anyhow::Result<Vec<_>>>()?;
        if prepared.is_empty() {
            bail!("{}: no frame lies in the sampled range", path.display());
        }
        Ok(pipeline.pixels(&prepared)?)
    }
}

/// Reads preprocessed pixels and splits them by medium.
fn read_pixels(path: &Path, options: &LoadOptions) -> anyhow::Result<Vec<MediumPixels>> {
    let tensors =
        candle_core::safetensors::load(path, &options.device).with_context(|| path.display().to_string())?;
    let pixels = tensors.get("pixels").with_context(|| format!("{}: no tensor `pixels`", path.display()))?;
    Ok(split_pixels(&pixels.to_dtype(options.dtype)?, tensors.get("lengths"), tensors.get("grids"))?)
}
