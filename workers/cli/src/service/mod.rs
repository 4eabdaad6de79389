//! The commands of the service.

mod config;
mod run;
mod submit;
mod change;
mod jobs;
mod work;

pub use config::{Config, Migrate};
pub use jobs::Jobs;
pub use run::Run;
pub use submit::Submit;
pub use work::Work;

use std::path::PathBuf;
use std::time::Duration;

use ::jobs::JobId;
use ::jobs::ledger::{JobRecord, Ledger};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use video_worker::settings::{Origin, Settings, SettingsError, load};

use crate::args::{BadUse, DTypeName, DeviceArgs, ModelArgs, QuantizeName, parse_device};

/// Where settings come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingsArgs {
    /// A file of settings; `config/default.toml` explains them all.
    #[arg(long, env = "FLAMINGO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting over file and environment: `--set queue.url=amqp://...`
    #[arg(long, value_name = "SETTING=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (setting, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((setting.trim().to_owned(), value.to_owned()))
}

impl SettingsArgs {
    fn load(&self, over: &[(String, String)]) -> anyhow::Result<(Settings, Vec<Origin>)> {
        let flags: Vec<_> = self.set.iter().chain(over).cloned().collect();
        load(self.config.as_deref(), &flags).map_err(|e: SettingsError| BadUse(e.to_string()).into())
    }
}

/// The settings of the model that have flags of their own, the same as elsewhere.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelOver {
    /// Model directory; `FLAMINGO_MODEL` names one too.
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// `cpu`, `cuda` or `cuda:N`.
    #[arg(long)]
    device: Option<String>,
    /// Numbers that the model computes in: `f32`, `bf16` or `f16`.
    #[arg(long)]
    dtype: Option<String>,
    /// Quantised matrices: `keep` or `none`.
    #[arg(long)]
    quantize: Option<String>,
    /// Threads of the model; by default one per core.
    #[arg(long, value_name = "N")]
    threads: Option<String>,
}

impl ModelOver {
    fn settings(&self) -> Vec<(String, String)> {
        [
            ("model.path", &self.model),
            ("model.device", &self.device),
            ("model.dtype", &self.dtype),
            ("model.quantize", &self.quantize),
            ("model.threads", &self.threads),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect()
    }
}

/// How the model is loaded by these settings.
fn model_args(settings: &Settings) -> anyhow::Result<ModelArgs> {
    let model = &settings.model;
    let wrong = |setting: &str, why: String| BadUse(format!("settings: model.{setting}: {why}"));
    Ok(ModelArgs {
        model: model.path.clone(),
        device: DeviceArgs {
            device: parse_device(&model.device).map_err(|e| wrong("device", e))?,
            threads: (model.threads > 0).then_some(model.threads),
        },
        dtype: DTypeName::from_str(&model.dtype, false).map_err(|e| wrong("dtype", e))?,
        quantize: QuantizeName::from_str(&model.quantize, false).map_err(|e| wrong("quantize", e))?,
    })
}

/// Does `work`, and then does not wait for threads that it has let go of.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("no threads for input and output")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn find(ledger: &Ledger, id: &str) -> anyhow::Result<JobRecord> {
    let id = JobId::try_from(id.to_owned()).map_err(|e| BadUse(e.to_string()))?;
    match ledger.job(&id).await? {
        Some(record) => Ok(record),
        None => bail!("{id}: no such job in the ledger"),
    }
}

#[cfg(test)]
mod tests {
    use crate::args::DeviceName;

    use super::*;

    /// Several GPUs are several workers, each with a setting of its own.
    #[test]
    fn a_worker_takes_the_gpu_that_its_settings_name() {
        for (text, expected) in
            [("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda(0)), ("cuda:1", DeviceName::Cuda(1))]
        {
            let (settings, _) = load(None, &[("model.device".to_owned(), text.to_owned())]).unwrap();
            assert_eq!(model_args(&settings).unwrap().device.device, expected, "{text}");
        }
        let (settings, _) = load(None, &[("model.device".to_owned(), "cuda:one".to_owned())]).unwrap();
        let error = model_args(&settings).unwrap_err();
        assert_eq!(error.to_string(), "settings: model.device: `one` is not a device number");
        assert!(error.is::<BadUse>());
    }
}
