//! Settings: built-in defaults, overridden by a file, the environment, and flags, in this order.

use std::path::PathBuf;
use std::time::Duration;

use inference::decoder::ProcessLimits;
use inference::engine::{EngineLimits, PrefixFolder};
use jobs::duration;
use jobs::secret_url::SecretUrl;
use jobs::worker::WorkerSettings;
use serde::Deserialize;

use crate::inputs::Location;

mod load;
mod secret;
mod validate;

#[cfg(test)]
mod tests;

pub use load::{ENVIRONMENT, Origin, load};
pub use secret::Secret;
use validate::parse_delay;

/// All settings of the service; `config/default.toml` explains each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Settings {
    pub queue: QueueSettings,
    pub database: DatabaseSettings,
    pub store: StoreSettings,
    pub inputs: InputSettings,
    pub worker: WorkerSettings,
    /// Read from the table `worker` too.
    #[serde(skip)]
    pub resources: ResourceSettings,
    pub decoder: DecoderSettings,
    pub cache: CacheSettings,
    pub model: ModelSettings,
    pub engine: EngineLimits,
    pub status: StatusSettings,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QueueSettings {
    pub url: SecretUrl,
    pub name: String,
    pub declare: bool,
    pub delivery_limit: u32,
    pub retry_delays: Vec<String>,
    #[serde(with = "duration")]
    pub consumer_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DatabaseSettings {
    pub url: SecretUrl,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StoreSettings {
    pub url: String,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    #[serde(with = "duration")]
    pub read_timeout: Duration,
    pub sheets: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct InputSettings {
    pub allow: Vec<String>,
    pub max_bytes: u64,
    pub max_manifest_bytes: u64,
    pub page: usize,
}

/// Disk and memory of running items: the settings of the table `worker` that the job machinery does not know.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ResourceSettings {
    pub temporary: String,
    pub temporary_bytes: u64,
    pub memory: u64,
}

/// Caches of visual tokens, of encoded support sets, and of prefixes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CacheSettings {
    pub memory: u64,
    pub support_memory: u64,
    pub store: bool,
    pub prefixes: String,
    pub prefix_bytes: u64,
}

impl CacheSettings {
    /// Returns the folder of prefixes, if they are kept on disk.
    pub fn prefix_folder(&self) -> Option<PrefixFolder> {
        let Self { prefixes, prefix_bytes, .. } = self;
        (!prefixes.is_empty()).then(|| PrefixFolder { path: prefixes.into(), bytes: *prefix_bytes })
    }
}

/// Decoder processes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DecoderSettings {
    pub sandbox: Sandbox,
    pub memory: u64,
    #[serde(with = "duration")]
    pub processor_time: Duration,
    #[serde(with = "duration")]
    pub silence: Duration,
}

/// Required confinement of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Use the mechanisms that the kernel has, and log them.
    Best,
    /// Refuse to start without all mechanisms.
    Full,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelSettings {
    pub path: PathBuf,
    pub device: String,
    pub dtype: String,
    pub quantize: String,
    pub frame_mode: String,
    pub row_mask: String,
    pub threads: u16,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
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
    #[error("settings: {setting} is not a setting (from {origin})")]
    Unknown { setting: String, origin: String },
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

    /// Returns the delays for requeued messages.
    ///
    /// # Errors
    /// A delay is not a duration.
    pub fn retry_delays(&self) -> Result<Vec<Duration>, SettingsError> {
        (1..).zip(&self.queue.retry_delays).map(|(n, delay)| parse_delay(n, delay)).collect()
    }

    /// Returns the folder for downloaded videos.
    pub fn temporary(&self) -> PathBuf {
        match self.resources.temporary.as_str() {
            "" => std::env::temp_dir(),
            folder => PathBuf::from(folder),
        }
    }

    /// Returns the limits of decoder processes.
    pub fn process(&self) -> ProcessLimits {
        let DecoderSettings { memory, processor_time, silence, .. } = self.decoder;
        ProcessLimits { memory, cpu_s: processor_time.as_secs(), silence_s: silence.as_secs() }
    }
}
