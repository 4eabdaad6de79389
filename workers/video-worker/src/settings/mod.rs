//! Settings: built-in defaults, overridden by a file, the environment, and flags, in this order.

use std::path::PathBuf;
use std::time::Duration;

use inference::decoder::ProcessLimits;
use inference::engine::EngineLimits;
use jobs::retry::Backoff;
use jobs::secret_url::SecretUrl;
use jobs::worker;
use serde::{Deserialize, Serialize};

use crate::inputs::Location;

mod duration;
mod load;
mod secret;
mod validate;

#[cfg(test)]
mod tests;

pub use load::{ENVIRONMENT, Origin, load};
pub use secret::Secret;
use validate::parse_delay;

/// All settings of the service; `config/default.toml` explains each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub queue: QueueSettings,
    pub database: DatabaseSettings,
    pub store: StoreSettings,
    pub inputs: InputSettings,
    pub worker: WorkerSettings,
    pub decoder: DecoderSettings,
    pub cache: CacheSettings,
    pub model: ModelSettings,
    pub engine: EngineLimits,
    pub status: StatusSettings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    pub url: SecretUrl,
    pub name: String,
    pub declare: bool,
    pub delivery_limit: u32,
    pub retry_delays: Vec<String>,
    #[serde(with = "duration")]
    pub consumer_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    pub url: SecretUrl,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    pub url: String,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    #[serde(with = "duration")]
    pub read_timeout: Duration,
    pub sheets: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSettings {
    pub allow: Vec<String>,
    pub max_bytes: u64,
    pub max_manifest_bytes: u64,
    pub page: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    pub name: String,
    pub items: usize,
    pub urgent: usize,
    #[serde(with = "duration")]
    pub lease: Duration,
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    #[serde(with = "duration")]
    pub item_deadline: Duration,
    #[serde(with = "duration")]
    pub grace: Duration,
    pub attempts: u32,
    pub losses: u32,
    #[serde(with = "duration")]
    pub backoff_first: Duration,
    #[serde(with = "duration")]
    pub backoff_most: Duration,
    #[serde(with = "duration")]
    pub retry_timeout: Duration,
    #[serde(with = "duration")]
    pub sweep: Duration,
    #[serde(with = "duration")]
    pub forgotten: Duration,
    pub temporary: String,
    pub temporary_bytes: u64,
    pub memory: u64,
}

/// Cache of visual tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    pub memory: u64,
    pub store: bool,
}

/// Decoder processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderSettings {
    pub sandbox: Sandbox,
    pub memory: u64,
    #[serde(with = "duration")]
    pub processor_time: Duration,
    #[serde(with = "duration")]
    pub silence: Duration,
}

/// Required confinement of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Use the mechanisms that the kernel has, and log them.
    Best,
    /// Refuse to start without all mechanisms.
    Full,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    pub path: PathBuf,
    pub device: String,
    pub dtype: String,
    pub quantize: String,
    pub threads: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusSettings {
    pub address: String,
    pub pages: bool,
    pub token: Secret,
}

/// Error in the settings. The text names the setting and its source.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings: {0}")]
    Malformed(String),
    #[error("settings: {setting} {reason}")]
    Invalid { setting: &'static str, reason: String },
}

impl Settings {
    /// Whether other programs can send messages to the queue.
    pub fn is_remote(&self) -> bool {
        self.queue.url.scheme() != "memory"
    }

    /// Returns the allowed places of inputs; any if empty.
    ///
    /// # Errors
    /// A place is not a valid location.
    pub fn places(&self) -> Result<Vec<Location>, SettingsError> {
        let place = |text: &String| {
            Location::parse(text)
                .map_err(|e| SettingsError::Invalid { setting: "inputs.allow", reason: e.to_string() })
        };
        // An empty environment variable means an empty list.
        self.inputs.allow.iter().filter(|text| !text.is_empty()).map(place).collect()
    }

    pub fn retry_delays(&self) -> Result<Vec<Duration>, SettingsError> {
        (1..).zip(&self.queue.retry_delays).map(|(n, delay)| parse_delay(n, delay)).collect()
    }

    /// Returns the folder for downloaded videos.
    pub fn temporary(&self) -> PathBuf {
        match self.worker.temporary.as_str() {
            "" => std::env::temp_dir(),
            folder => PathBuf::from(folder),
        }
    }

    /// Returns the limits of decoder processes.
    pub fn process(&self) -> ProcessLimits {
        let DecoderSettings { memory, processor_time, silence, .. } = self.decoder;
        ProcessLimits { memory, cpu_s: processor_time.as_secs(), silence_s: silence.as_secs() }
    }

    /// Returns the settings of the worker loop.
    pub fn worker(&self, name: String) -> worker::WorkerSettings {
        let WorkerSettings {
            items,
            urgent,
            lease,
            heartbeat,
            item_deadline,
            grace,
            attempts,
            losses,
            retry_timeout,
            sweep,
            forgotten,
            ..
        } = self.worker;
        worker::WorkerSettings {
            name,
            slots: items,
            urgent_slots: urgent,
            lease,
            heartbeat,
            deadline: item_deadline,
            grace,
            max_attempts: attempts,
            max_worker_losses: losses,
            backoff: Backoff { first: self.worker.backoff_first, max: self.worker.backoff_most },
            retry_timeout,
            sweep_interval: sweep,
            message_lost_after: forgotten,
        }
    }
}
