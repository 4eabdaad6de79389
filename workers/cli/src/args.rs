//! Options that mean the same in every subcommand.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use candle_core::utils::cuda_is_available;
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use flamingo::Pipeline;
use flamingo::family::LoadOptions;
use flamingo::generate::{Generation, Strategy};
use flamingo::video::FrameSampling;
use flamingo::weights::Quantization;

/// A command that means nothing, whatever its inputs are.
#[derive(Debug)]
pub struct BadUse(pub String);

impl std::fmt::Display for BadUse {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUse {}

/// Where the project keeps its own model.
const DEFAULT_MODEL: &str = "models/flamingo-mini";
/// What candle and rayon take their number of threads from.
const THREADS: &str = "RAYON_NUM_THREADS";

#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model directory; `flamingo model init` makes an untrained one.
    #[arg(long, env = "FLAMINGO_MODEL", default_value = DEFAULT_MODEL, value_name = "DIR")]
    pub model: PathBuf,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Numbers that the model computes in.
    #[arg(long, default_value = "f32", value_enum)]
    pub dtype: DTypeName,
    /// What to do with quantised matrices: run them as they are, or dequantise them at load.
    #[arg(long, default_value = "keep", value_enum)]
    pub quantize: QuantizeName,
}

/// What the tensors are computed on.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    pub device: DeviceName,
    /// Threads of the model; by default one per core.
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
}

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

/// What is to be said of a model that cannot see.
pub const BLIND: &str =
    "this model is untrained: its gates are closed, so it answers without seeing the video";

impl ModelArgs {
    pub fn load(&self) -> anyhow::Result<Pipeline> {
        self.device.settle_threads()?;
        self.check_directory()?;
        Ok(Pipeline::load_with(&self.model, self.options()?)?)
    }

    /// # Errors
    /// [`BadUse`]: there is no such directory.
    pub fn check_directory(&self) -> anyhow::Result<()> {
        if !self.model.is_dir() {
            let model = self.model.display();
            bail!(BadUse(format!(
                "{model}: no such model directory; name one with --model, or make an untrained one with `flamingo model init`"
            )));
        }
        Ok(())
    }

    /// As [`load`](Self::load), for answers: says so when the model cannot see.
    pub fn load_to_answer(&self) -> anyhow::Result<Pipeline> {
        let pipeline = self.load()?;
        if !pipeline.loaded().info.gates_open {
            eprintln!("note: {BLIND}");
        }
        Ok(pipeline)
    }

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
        };
        Ok(LoadOptions { device, dtype, quantization })
    }
}

impl DeviceArgs {
    /// The device.
    ///
    /// # Errors
    /// [`BadUse`] when this build has no CUDA; there is no such device, or it or its libraries refuse to work.
    pub fn open(&self) -> anyhow::Result<Device> {
        match self.device {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(n) if !cuda_is_available() => {
                bail!(BadUse(format!("cuda:{n}: this build of flamingo has no CUDA")))
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

    /// Sees to it that so many threads work.
    pub fn settle_threads(&self) -> anyhow::Result<()> {
        // Unless it is told, candle reads the machine's processors anew before every product: an eighth of the time.
        let threads = self.threads.map_or_else(candle_core::utils::get_num_threads, usize::from).to_string();
        match std::env::var(THREADS) {
            Ok(set) if set == threads => Ok(()),
            _ => start_over_with(THREADS, &threads),
        }
    }
}

/// Libraries read their number of threads from the environment, once. Starting over with it set is the way to set it
/// without changing the environment of a running process.
pub fn start_over_with(variable: &str, value: &str) -> anyhow::Result<()> {
    let arguments = std::env::args_os().skip(1);
    let error = std::process::Command::new(program()?).args(arguments).env(variable, value).exec();
    Err(error).with_context(|| format!("cannot start over with {variable}={value}"))
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Frames")]
pub struct SamplingArgs {
    /// Frames per second.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    pub fps: f64,
    /// So many frames, spread evenly, instead of a rate.
    #[arg(long, value_name = "N", conflicts_with = "fps")]
    pub frames: Option<usize>,
    /// Begin at this moment (`90`, `90s`, `1:30`).
    #[arg(long, default_value = "0", value_parser = parse_seconds, value_name = "TIME")]
    pub start: f64,
    /// End before this moment.
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    pub end: Option<f64>,
}

impl SamplingArgs {
    /// # Errors
    /// [`BadUse`]: a rate, a number or a range that means nothing.
    pub fn sampling(&self) -> anyhow::Result<FrameSampling> {
        let whole = match self.frames {
            Some(n) => FrameSampling::uniform(n),
            None => FrameSampling::fps(self.fps),
        };
        let sampling = whole.within(self.start, self.end);
        sampling.check().map_err(|e| BadUse(e.to_string()))?;
        Ok(sampling)
    }
}

/// Seconds: `8`, `8s`, `500ms`, `2m`, `1:30`, `1:02:03.5`.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a time such as `8s`, `1:30` or `1:02:03.5`");
    let number = |t: &str| t.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(wrong);
    for (unit, seconds) in [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)] {
        if let Some(amount) = text.strip_suffix(unit) {
            return Some(number(amount)? * seconds).filter(|s| s.is_finite()).ok_or_else(wrong);
        }
    }
    let sum = text.split(':').try_fold(0.0, |sum, part| Ok::<_, String>(sum * 60.0 + number(part)?))?;
    if f64::is_finite(sum) { Ok(sum) } else { Err(wrong()) }
}

/// A length of time that is not zero.
pub fn parse_length(text: &str) -> Result<f64, String> {
    parse_seconds(text)
        .and_then(|s| if s >= 0.001 { Ok(s) } else { Err("a window is at least a millisecond long".into()) })
}

fn parse_finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| "expected a number".into())
}

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
    /// Beams of the search; 1 is greedy.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub beams: u16,
    /// Divides a finished beam's log-likelihood by its length to this power.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_name = "POWER", value_parser = parse_finite)]
    pub length_penalty: f64,
    /// Longest answer in tokens.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_new_tokens: u16,
    /// Sample at this temperature instead of searching.
    #[arg(long, conflicts_with = "beams", value_name = "T", value_parser = parse_positive)]
    pub temperature: Option<f64>,
    /// Sample from so many of the likeliest tokens; 0 is all.
    #[arg(long, default_value_t = 0, requires = "temperature", value_name = "N")]
    pub top_k: usize,
    /// Sample from the likeliest tokens that together hold this probability.
    #[arg(long, default_value_t = 1.0, requires = "temperature", value_name = "P", value_parser = parse_share)]
    pub top_p: f64,
    /// The same seed samples the same answer.
    #[arg(long, default_value_t = 0, requires = "temperature", value_name = "N")]
    pub seed: u64,
}

impl GenerationArgs {
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

/// This binary, which is also its own decoder.
pub fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program on disk")
}

/// A folder for results, made if it is not there.
pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, expected) in
            [("8", 8.0), ("8s", 8.0), ("500ms", 0.5), ("2m", 120.0), ("1:30", 90.0), ("1:02:03.5", 3723.5)]
        {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1", "1:", "nan", "inf", "8 s", "1:-2"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices() {
        for (text, expected) in
            [("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda(0)), ("cuda:3", DeviceName::Cuda(3))]
        {
            assert_eq!(parse_device(text), Ok(expected), "{text}");
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1"] {
            assert!(parse_device(text).is_err(), "{text}");
        }
    }

    /// No machine has so many GPUs: either nobody compiled for one, or there is no such one.
    #[test]
    fn a_device_that_is_not_there() {
        let device = DeviceArgs { device: DeviceName::Cuda(999), threads: None };
        let error = device.open().unwrap_err();
        if cuda_is_available() {
            assert!(error.to_string().starts_with("cuda:999: no such GPU can be used: "), "{error}");
        } else {
            assert_eq!(error.to_string(), "cuda:999: this build of flamingo has no CUDA");
            assert!(error.is::<BadUse>(), "it can never work with this build");
        }
    }
}
