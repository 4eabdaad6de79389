//! Settings options of the service commands, and what these commands share: runtime and job lookup.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use jobs::JobId;
use jobs::ledger::{JobRecord, Ledger};
use video_worker::settings::{Origin, Settings, SettingsError, load};

use crate::args::{DTypeName, DeviceArgs, ModelArgs, QuantizeName, UsageError, parse_device};

/// Options that name the sources of settings.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingsArgs {
    /// Settings file (TOML); `config/default.toml` explains every setting.
    #[arg(long, env = "FLAMINGO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one setting, over file and environment: `--set queue.url=amqp://...`
    #[arg(long, value_name = "SETTING=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
}

/// Splits `NAME=VALUE`.
///
/// # Errors
/// The text has no `=`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (setting, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((setting.trim().to_owned(), value.to_owned()))
}

impl SettingsArgs {
    /// Loads the settings, with the origin of each. `overrides` are flags of their own, over everything else.
    ///
    /// # Errors
    /// [`UsageError`]: the file cannot be read, or a setting is wrong.
    pub fn load(&self, overrides: &[(String, String)]) -> anyhow::Result<(Settings, Vec<Origin>)> {
        if let Some(file) = self.config.as_ref().filter(|file| !file.is_file()) {
            bail!(UsageError(format!("{}: no such settings file", file.display())));
        }
        let flags: Vec<_> = self.set.iter().chain(overrides).cloned().collect();
        load(self.config.as_deref(), &flags).map_err(|e: SettingsError| UsageError(e.to_string()).into())
    }
}

/// Model settings that have flags of their own, with the names that they have in other commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelOverrides {
    /// Model: a directory, or the name of a pulled one; `FLAMINGO_MODEL` names one too.
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<String>,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long)]
    device: Option<String>,
    /// Number format of the computation: `f32`, `bf16` or `f16`.
    #[arg(long)]
    dtype: Option<String>,
    /// Matrices: `keep` the format of the file, `none` to dequantise at load, `q8_0` or `q4k` to quantise at load.
    #[arg(long)]
    quantize: Option<String>,
    /// Frames of a video for a model without temporal training (Llama 3.2 Vision): `sheet`, `sequence` or `captions`.
    #[arg(long, value_name = "MODE")]
    frame_mode: Option<String>,
    /// Treatment of the tokens before the first image (Llama 3.2 Vision): `meta` or `hf`.
    #[arg(long, value_name = "MASK")]
    row_mask: Option<String>,
    /// Threads of the model [default: one per core].
    #[arg(long, value_name = "N")]
    threads: Option<String>,
}

impl ModelOverrides {
    /// The given flags as pairs of setting and value.
    pub fn settings(&self) -> Vec<(String, String)> {
        [
            ("model.path", &self.model),
            ("model.device", &self.device),
            ("model.dtype", &self.dtype),
            ("model.quantize", &self.quantize),
            ("model.frame_mode", &self.frame_mode),
            ("model.row_mask", &self.row_mask),
            ("model.threads", &self.threads),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect()
    }
}

/// The model options that the settings name.
///
/// # Errors
/// [`UsageError`]: an unknown device, dtype or quantisation.
pub fn model_args(settings: &Settings) -> anyhow::Result<ModelArgs> {
    let model = &settings.model;
    let wrong = |setting: &str, why: String| UsageError(format!("settings: model.{setting}: {why}"));
    Ok(ModelArgs {
        model: model.path.clone(),
        device: DeviceArgs {
            device: parse_device(&model.device).map_err(|e| wrong("device", e))?,
            threads: (model.threads > 0).then_some(model.threads),
        },
        dtype: DTypeName::from_str(&model.dtype, false).map_err(|e| wrong("dtype", e))?,
        quantize: QuantizeName::from_str(&model.quantize, false).map_err(|e| wrong("quantize", e))?,
        frame_mode: optional(&model.frame_mode).map_err(|e| wrong("frame_mode", e))?,
        row_mask: optional(&model.row_mask).map_err(|e| wrong("row_mask", e))?,
        hash_language: settings.cache.prefix_folder().is_some(),
    })
}

/// Parses a setting that may be empty.
fn optional<T: ValueEnum>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { T::from_str(text, false).map(Some) }
}

/// Bytes of the caches that the settings reserve for the engine.
pub fn cache_bytes(settings: &Settings) -> u64 {
    settings.engine.kv_bytes.saturating_add(settings.engine.media_bytes)
}

/// Runs a future on a new runtime. At the end, waits at most 2 s for blocking threads that are still running.
///
/// # Errors
/// As the future, and when the runtime cannot start its threads.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start the threads of the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Reads a job from the ledger.
///
/// # Errors
/// [`UsageError`]: an invalid id. Else: the ledger has no such job, or does not answer.
pub async fn find_job(ledger: &Ledger, id: &str) -> anyhow::Result<JobRecord> {
    let id = JobId::try_from(id.to_owned()).map_err(|e| UsageError(e.to_string()))?;
    match ledger.job(&id).await? {
        Some(record) => Ok(record),
        None => bail!("{id}: no such job in the ledger"),
    }
}

#[cfg(test)]
mod tests {
    use crate::args::DeviceName;

    use super::*;

    /// Each of several GPUs has a worker with its own setting.
    #[test]
    fn takes_the_device_from_the_settings() {
        for (text, expected) in
            [("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda(0)), ("cuda:1", DeviceName::Cuda(1))]
        {
            let (settings, _) = load(None, &[("model.device".to_owned(), text.to_owned())]).unwrap();
            assert_eq!(model_args(&settings).unwrap().device.device, expected, "{text}");
        }
        let (settings, _) = load(None, &[("model.device".to_owned(), "cuda:one".to_owned())]).unwrap();
        let error = model_args(&settings).unwrap_err();
        assert_eq!(error.to_string(), "settings: model.device: `one` is not a device number");
        assert!(error.is::<UsageError>());
    }
}
