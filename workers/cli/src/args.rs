//! Options that have the same meaning in every subcommand.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use candle_core::utils::cuda_is_available;
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use flamingo::Pipeline;
use flamingo::family::mllama::RowMask;
use flamingo::family::{FamilyOptions, FrameMode, LoadOptions};
use flamingo::generate::{Generation, Strategy};
use flamingo::video::FrameSampling;
use flamingo::weights::Quantization;

use crate::hub::cache::{ModelDirectory, OWN_DIRECTORY, model_directory};
use crate::memory::plan::MemoryPlan;
use crate::process::fix_thread_count;

/// A wrong command line or setting. The command ends with exit status 2 before it does any work.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a directory, or the name of a pulled one (`flamingo model list`).
    #[arg(long, env = "FLAMINGO_MODEL", default_value = OWN_DIRECTORY, value_name = "DIR|NAME")]
    pub model: PathBuf,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Number format of the computation.
    #[arg(long, default_value = "f32", value_enum)]
    pub dtype: DTypeName,
    /// Matrices: `keep` the format of the file, `none` to dequantise at load, `q8_0` or `q4k` to quantise at load.
    #[arg(long, default_value = "keep", value_enum)]
    pub quantize: QuantizeName,
    /// Frames of a video for a model without temporal training (Llama 3.2 Vision): one contact `sheet`, a `sequence` of pictures, or
    /// `captions` of single frames, from which the language model answers [default: as the model says, else sheet].
    #[arg(long, value_name = "MODE", value_enum)]
    pub frame_mode: Option<FrameModeName>,
    /// Treatment of the tokens before the first image (Llama 3.2 Vision): as `meta` or `hf` (Hugging Face) compute it
    /// [default: as the model says, else meta].
    #[arg(long, value_name = "MASK", value_enum)]
    pub row_mask: Option<RowMaskName>,
    /// Hash the language model: a worker that keeps prefixes on disk needs it.
    #[arg(skip)]
    pub hash_language: bool,
}

/// Device and threads of the model.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    pub device: DeviceName,
    /// Threads of the model [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    Cuda(usize),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DTypeName {
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum QuantizeName {
    Keep,
    None,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4k")]
    Q4K,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FrameModeName {
    Sheet,
    Sequence,
    Captions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RowMaskName {
    Meta,
    Hf,
}

/// Parses `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// The text is none of them.
pub fn parse_device(text: &str) -> Result<DeviceName, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(DeviceName::Cpu),
        None if text == "cuda" => Ok(DeviceName::Cuda(0)),
        Some(("cuda", n)) => {
            n.parse().map(DeviceName::Cuda).map_err(|_| format!("`{n}` is not a device number"))
        }
        _ => Err("expected `cpu`, `cuda` or `cuda:N`".into()),
    }
}

/// Note about a model whose gates are closed.
pub const GATES_CLOSED: &str =
    "this model is untrained: its gates are closed, so its answers do not depend on the video";

impl ModelArgs {
    /// Loads the model.
    ///
    /// # Errors
    /// [`UsageError`]: there is no such model or device. Else as [`Pipeline::load_with`].
    pub fn load(&self) -> anyhow::Result<Pipeline> {
        self.load_with_caches(0)
    }

    /// As [`load`](Self::load), for a program that will allocate `caches` bytes too.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when model and caches do not fit into the available memory.
    pub fn load_with_caches(&self, caches: u64) -> anyhow::Result<Pipeline> {
        self.device.fix_threads()?;
        let directory = self.directory()?;
        let options = self.options()?;
        // An unreadable file is an error of the load, which says more.
        if let Ok(plan) = MemoryPlan::read(&directory.path, &options) {
            plan.check(&self.model.display().to_string(), caches, &options)?;
        }
        if let Some(licence) = directory.pulled.as_ref().and_then(|pulled| pulled.licence.as_ref()) {
            tracing::info!(model = %self.model.display(), licence);
        }
        let pipeline = Pipeline::load_with(&directory.path, options)?;
        Ok(match directory.pulled {
            Some(pulled) => pipeline.with_name(pulled.name),
            None => pipeline,
        })
    }

    /// Returns the directory of the model.
    ///
    /// # Errors
    /// [`UsageError`]: there is no such directory, or the model is not pulled.
    pub fn directory(&self) -> anyhow::Result<ModelDirectory> {
        model_directory(&self.model)
    }

    /// As [`load`](Self::load), with a note on standard error when the gates of the model are closed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_to_answer(&self) -> anyhow::Result<Pipeline> {
        self.load_to_answer_with_caches(0)
    }

    /// As [`load_to_answer`](Self::load_to_answer), for a program that will allocate `caches` bytes too.
    ///
    /// # Errors
    /// As [`load_with_caches`](Self::load_with_caches).
    pub fn load_to_answer_with_caches(&self, caches: u64) -> anyhow::Result<Pipeline> {
        let pipeline = self.load_with_caches(caches)?;
        if let Some(licence) = self.directory()?.pulled.and_then(|pulled| pulled.licence) {
            eprintln!("note: {}: licence: {licence}", self.model.display());
        }
        if !pipeline.loaded().info.gates_open {
            eprintln!("note: {GATES_CLOSED}");
        }
        Ok(pipeline)
    }

    /// The device, dtype and quantisation that the options name.
    ///
    /// # Errors
    /// As [`DeviceArgs::open`].
    pub fn options(&self) -> anyhow::Result<LoadOptions> {
        let device = self.device.open()?;
        let dtype = match self.dtype {
            DTypeName::F32 => DType::F32,
            DTypeName::Bf16 => DType::BF16,
            DTypeName::F16 => DType::F16,
        };
        let quantization = match self.quantize {
            QuantizeName::Keep => Quantization::Keep,
            QuantizeName::None => Quantization::Dequantize,
            QuantizeName::Q8_0 => Quantization::Q8_0,
            QuantizeName::Q4K => Quantization::Q4K,
        };
        let mut options = LoadOptions::new(device, dtype, quantization);
        options.family = self.family();
        options.hash_language = self.hash_language;
        Ok(options)
    }

    fn family(&self) -> FamilyOptions {
        FamilyOptions {
            frame_mode: self.frame_mode.map(|mode| match mode {
                FrameModeName::Sheet => FrameMode::Sheet,
                FrameModeName::Sequence => FrameMode::Sequence,
                FrameModeName::Captions => FrameMode::Captions,
            }),
            row_mask: self.row_mask.map(|mask| match mask {
                RowMaskName::Meta => RowMask::Meta,
                RowMaskName::Hf => RowMask::Hf,
            }),
        }
    }
}

impl DeviceArgs {
    /// Opens the device.
    ///
    /// # Errors
    /// [`UsageError`]: this build has no CUDA. Else: there is no such device, or it or its libraries fail.
    pub fn open(&self) -> anyhow::Result<Device> {
        match self.device {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(n) if !cuda_is_available() => {
                bail!(UsageError(format!("cuda:{n}: this build of flamingo has no CUDA")))
            }
            DeviceName::Cuda(n) => Device::new_cuda(n).map_err(|e| {
                // candle appends a backtrace when one is asked for.
                let reason = match e.to_string().lines().next().unwrap_or_default() {
                    none if none.contains("CUDA_ERROR_NO_DEVICE") => {
                        "this machine has none, or no driver for it".to_owned()
                    }
                    reason => reason.to_owned(),
                };
                anyhow!("cuda:{n}: no such GPU can be used: {reason}")
            }),
        }
    }

    /// Fixes the number of threads, see [`fix_thread_count`].
    ///
    /// # Errors
    /// The program cannot be restarted.
    pub fn fix_threads(&self) -> anyhow::Result<()> {
        fix_thread_count(self.threads)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Frames")]
pub struct SamplingArgs {
    /// Sampled frames per second of video.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    pub fps: f64,
    /// Number of frames, spread evenly over the video, instead of a rate.
    #[arg(long, value_name = "N", conflicts_with = "fps")]
    pub frames: Option<usize>,
    /// Start of the sampled range (`90`, `90s`, `1:30`).
    #[arg(long, default_value = "0", value_parser = parse_seconds, value_name = "TIME")]
    pub start: f64,
    /// End of the sampled range, exclusive [default: end of the video].
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    pub end: Option<f64>,
}

impl SamplingArgs {
    /// The frame sampling that the options name.
    ///
    /// # Errors
    /// [`UsageError`]: an invalid rate or number, or an empty range.
    pub fn sampling(&self) -> anyhow::Result<FrameSampling> {
        let whole = match self.frames {
            Some(n) => FrameSampling::uniform(n),
            None => FrameSampling::fps(self.fps),
        };
        let sampling = whole.within(self.start, self.end);
        sampling.check().map_err(|e| UsageError(e.to_string()))?;
        Ok(sampling)
    }
}

/// Parses a time into seconds, see [`inference::time::parse_seconds`].
///
/// # Errors
/// The text is no time.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    inference::time::parse_seconds(text).map_err(|reason| format!("`{text}` is {reason}"))
}

/// Parses the length of a window into seconds.
///
/// # Errors
/// The text is no time, or the time is shorter than a millisecond.
pub fn parse_length(text: &str) -> Result<f64, String> {
    parse_seconds(text)
        .and_then(|s| if s >= 0.001 { Ok(s) } else { Err("a window is at least a millisecond long".into()) })
}

/// Parses a finite number.
///
/// # Errors
/// The text is no such number.
pub fn parse_finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| "expected a number".into())
}

/// Parses a number above 0.
///
/// # Errors
/// The text is no such number.
pub fn parse_positive(text: &str) -> Result<f64, String> {
    parse_finite(text).ok().filter(|n| *n > 0.0).ok_or_else(|| "expected a number above 0".into())
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_positive(text)
        .ok()
        .filter(|n| *n <= 1.0)
        .ok_or_else(|| "expected a number above 0, at most 1".into())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Answer")]
pub struct GenerationArgs {
    /// Beams of the beam search; 1 is greedy decoding.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub beams: u16,
    /// Exponent of the length penalty: a finished beam's log-likelihood is divided by its length to this power.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_name = "POWER", value_parser = parse_finite)]
    pub length_penalty: f64,
    /// Maximum length of an answer in tokens.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_new_tokens: u16,
    /// Sample at this temperature instead of beam search.
    #[arg(long, conflicts_with = "beams", value_name = "T", value_parser = parse_positive)]
    pub temperature: Option<f64>,
    /// Sample from the N likeliest tokens; 0 is all of them.
    #[arg(long, default_value_t = 0, requires = "temperature", value_name = "N")]
    pub top_k: usize,
    /// Sample from the likeliest tokens whose probabilities add up to P.
    #[arg(long, default_value_t = 1.0, requires = "temperature", value_name = "P", value_parser = parse_share)]
    pub top_p: f64,
    /// Seed of the sampling; the same seed gives the same answer.
    #[arg(long, default_value_t = 0, requires = "temperature", value_name = "N")]
    pub seed: u64,
}

impl GenerationArgs {
    /// The strategy and length that the options name.
    pub fn generation(&self) -> Generation {
        let strategy = match (self.temperature, self.beams) {
            (Some(temperature), _) => {
                Strategy::Sample { temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed }
            }
            (None, 1) => Strategy::Greedy {},
            (None, beams) => Strategy::Beam { beams: beams.into(), length_penalty: self.length_penalty },
        };
        Generation { strategy, max_new_tokens: self.max_new_tokens.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_devices() {
        for (text, expected) in
            [("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda(0)), ("cuda:3", DeviceName::Cuda(3))]
        {
            assert_eq!(parse_device(text), Ok(expected), "{text}");
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1"] {
            assert!(parse_device(text).is_err(), "{text}");
        }
    }

    /// No machine has a GPU 999: the build has no CUDA, or the device does not exist.
    #[test]
    fn names_the_missing_device() {
        let device = DeviceArgs { device: DeviceName::Cuda(999), threads: None };
        let error = device.open().unwrap_err();
        if cuda_is_available() {
            assert!(error.to_string().starts_with("cuda:999: no such GPU can be used: "), "{error}");
        } else {
            assert_eq!(error.to_string(), "cuda:999: this build of flamingo has no CUDA");
            assert!(error.is::<UsageError>(), "a build without CUDA cannot open it");
        }
    }
}
