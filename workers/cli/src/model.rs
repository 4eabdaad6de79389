//! `flamingo model inspect|trace|init`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::Tensor;
use clap::{Args, Subcommand};
use flamingo::Pipeline;
use flamingo::family::native::{NativeConfig, create, relative};
use flamingo::family::{CONFIG, LoadOptions};
use flamingo::stage_trace::{split_pixels, trace};
use video_worker::decoder::{DecodeRequest, decode};

use crate::args::{ModelArgs, SamplingArgs, make_folder, program};
use crate::output::write;

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Open a model directory strictly and say what is in it.
    Inspect(Inspect),
    /// Write every stage of one pass as a named tensor (safetensors).
    Trace(Trace),
    /// Make a new, untrained model directory around a language model.
    Init(Init),
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    model: ModelArgs,
    /// `<image>` or `<video>` marks where each medium goes, `<EOC>` the end of a chunk.
    #[arg(long, value_name = "TEXT", help_heading = "Trace")]
    prompt: String,
    /// Videos and images, in the order of the prompt.
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Trace")]
    media: Vec<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Ready pixels instead of files: `pixels` (frames, 3, h, w) and optionally `lengths`, the frames of each medium.
    #[arg(long, value_name = "SAFETENSORS", conflicts_with = "media", help_heading = "Trace")]
    pixels: Option<PathBuf>,
    /// Where the tensors go.
    #[arg(long, value_name = "SAFETENSORS", help_heading = "Trace")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Init {
    /// The frozen language model: a GGUF file, or a directory with config.json, tokenizer.json and safetensors.
    #[arg(long, value_name = "PATH")]
    language: PathBuf,
    /// The new model directory.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The same seed makes the same weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl Model {
    pub fn run(self) -> anyhow::Result<bool> {
        match self {
            Model::Inspect(command) => command.run(),
            Model::Trace(command) => command.run(),
            Model::Init(command) => command.run(),
        }
    }
}

impl Inspect {
    fn run(self) -> anyhow::Result<bool> {
        let pipeline = self.model.load()?;
        let loaded = pipeline.loaded();
        let language = loaded.model.language();
        let parts = &loaded.parameters;
        let layers = loaded.model.cross_attention_layers();
        if self.json {
            let object = serde_json::json!({
                "about": loaded.info,
                "parameters": parts,
                "cross_attention_layers": layers,
                "language": {
                    "layers": language.n_layers(), "width": language.width(),
                    "vocabulary": language.vocabulary(), "max_positions": language.max_positions(),
                },
                "preprocess": loaded.preprocess,
                "prompt": loaded.format,
            });
            println!("{object}");
            return Ok(true);
        }
        println!("{} ({})", loaded.info.name, loaded.info.family);
        for (part, n) in parts {
            println!("  {part:<16} {:>8.2} M parameters", *n as f64 / 1e6);
        }
        let (n, width) = (language.n_layers(), language.width());
        println!(
            "  language model   {n} layers of width {width}, {} tokens, up to {} positions",
            language.vocabulary(),
            language.max_positions()
        );
        println!("  cross-attention before layers {layers:?}");
        println!("  frames are {:?} to {} px", loaded.preprocess.fit, loaded.preprocess.size);
        println!(
            "  gates are {}",
            if loaded.info.gates_open { "open" } else { "closed: the model is untrained and cannot see" }
        );
        for (file, sha256) in &loaded.info.sha256 {
            println!("  {file:<16} sha256 {sha256}");
        }
        Ok(true)
    }
}

impl Trace {
    fn run(self) -> anyhow::Result<bool> {
        let pipeline = self.model.load()?;
        let media = match &self.pixels {
            Some(path) => ready_pixels(path, pipeline.options())?,
            None => {
                self.media.iter().map(|path| self.look_at(path, &pipeline)).collect::<anyhow::Result<_>>()?
            }
        };
        let stages = trace(&pipeline, &self.prompt, &media)?;
        for (name, tensor) in &stages {
            println!("{name:<16} {:?} {:?}", tensor.dtype(), tensor.dims());
        }
        let tensors: HashMap<String, Tensor> = stages.into_iter().collect();
        write(&self.out, &safetensors::serialize(&tensors, None)?)?;
        println!("written to {}", self.out.display());
        Ok(true)
    }

    fn look_at(&self, path: &Path, pipeline: &Pipeline) -> anyhow::Result<Tensor> {
        let request = DecodeRequest::new(path, self.sampling.sampling()?);
        let frames = decode(&program()?, path, request)?.map(|frame| Ok(pipeline.prepare(&frame?)));
        let prepared = frames.collect::<anyhow::Result<Vec<_>>>()?;
        if prepared.is_empty() {
            bail!("{}: no frame lies in the sampled range", path.display());
        }
        Ok(pipeline.pixels(&prepared)?)
    }
}

fn ready_pixels(path: &Path, options: &LoadOptions) -> anyhow::Result<Vec<Tensor>> {
    let tensors =
        candle_core::safetensors::load(path, &options.device).with_context(|| path.display().to_string())?;
    let pixels = tensors.get("pixels").with_context(|| format!("{}: no tensor `pixels`", path.display()))?;
    Ok(split_pixels(&pixels.to_dtype(options.dtype)?, tensors.get("lengths"))?)
}

impl Init {
    fn run(self) -> anyhow::Result<bool> {
        if self.out.join(CONFIG).exists() {
            bail!("{}: there is a model already; it is never overwritten", self.out.display());
        }
        make_folder(&self.out)?;
        let language = relative(&self.language, &self.out)?;
        create(&self.out, &NativeConfig::mini("flamingo-mini-untrained", language).zero_shot(), self.seed)?;
        println!("untrained model written to {}", self.out.display());
        Ok(true)
    }
}
