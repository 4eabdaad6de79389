//! What can be set, and where it was: built-in defaults, a file over them, the environment over it, flags over all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as human;
use jobs::retry::Backoff;
use jobs::secret_url::SecretUrl;
use jobs::worker::WorkerSettings;
use serde::{Deserialize, Serialize};

use crate::decoder::ProcessLimits;
use crate::engine::EngineLimits;
use crate::location::Location;

mod secret;

#[cfg(test)]
mod tests;

pub use secret::Secret;

/// `FLAMINGO__QUEUE__URL` sets `queue.url`.
pub const ENVIRONMENT: &str = "FLAMINGO";

/// What is built in: every setting, each explained.
const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// Everything that a service of this program can be told; `config/default.toml` says what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub queue: Queue,
    pub database: Database,
    pub store: Store,
    pub inputs: Inputs,
    pub worker: Worker,
    pub decoder: Decoder,
    pub cache: Cache,
    pub model: Model,
    pub engine: EngineLimits,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub url: SecretUrl,
    pub name: String,
    pub declare: bool,
    pub delivery_limit: u32,
    pub retry_delays: Vec<String>,
    #[serde(with = "human")]
    pub consumer_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: SecretUrl,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub url: String,
    #[serde(with = "human")]
    pub connect_timeout: Duration,
    #[serde(with = "human")]
    pub read_timeout: Duration,
    pub sheets: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub allow: Vec<String>,
    pub max_bytes: u64,
    pub max_manifest_bytes: u64,
    pub page: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub name: String,
    pub items: usize,
    pub urgent: usize,
    #[serde(with = "human")]
    pub lease: Duration,
    #[serde(with = "human")]
    pub heartbeat: Duration,
    #[serde(with = "human")]
    pub item_deadline: Duration,
    #[serde(with = "human")]
    pub grace: Duration,
    pub attempts: u32,
    pub losses: u32,
    #[serde(with = "human")]
    pub backoff_first: Duration,
    #[serde(with = "human")]
    pub backoff_most: Duration,
    #[serde(with = "human")]
    pub patience: Duration,
    #[serde(with = "human")]
    pub sweep: Duration,
    #[serde(with = "human")]
    pub forgotten: Duration,
    pub temporary: String,
    pub temporary_bytes: u64,
    pub memory: u64,
}

/// What is kept of videos that were looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub memory: u64,
    pub store: bool,
}

/// The processes that videos are decoded in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    pub sandbox: Sandbox,
    pub memory: u64,
    #[serde(with = "human")]
    pub processor_time: Duration,
    #[serde(with = "human")]
    pub silence: Duration,
}

/// What to do where the kernel cannot confine a decoder wholly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Work with what there is, and say how much.
    Best,
    /// Refuse to work.
    Full,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub path: PathBuf,
    pub device: String,
    pub dtype: String,
    pub quantize: String,
    pub threads: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub address: String,
    pub pages: bool,
    pub token: Secret,
}

/// Characters of a token that nobody guesses.
const SHORTEST_TOKEN: usize = 16;

/// Why settings are not in force. The sentence names the setting and where it was set.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings: {0}")]
    Unreadable(String),
    #[error("settings: {setting} {reason}")]
    Meaningless { setting: &'static str, reason: String },
}

/// What is wrong, without the value: it may be a password that stands in the wrong place.
impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        let at = |origin: Option<String>| origin.map(|o| format!(" (set in {o})")).unwrap_or_default();
        Self::Unreadable(match error {
            ConfigError::FileParse { uri, .. } => format!("{} is no TOML file", uri.unwrap_or_default()),
            ConfigError::Type { origin, expected, key, .. } => {
                format!("{} is not {expected}{}", key.unwrap_or_else(|| "a setting".into()), at(origin))
            }
            ConfigError::At { error, origin, key } => {
                let SettingsError::Unreadable(inner) = Self::from(*error) else {
                    unreachable!("made of the same")
                };
                format!("{}: {inner}{}", key.unwrap_or_default(), at(origin))
            }
            other => without_values(&other.to_string()),
        })
    }
}

/// serde quotes what it did not expect: it stands between double quotes, names stand between others. A word that is none
/// of those that a setting knows stands between other quotes, or at the end.
fn without_values(text: &str) -> String {
    if ["variant constructor ", "unknown variant "].iter().any(|said| text.contains(said)) {
        return "none of the words that this setting knows".into();
    }
    match (text.find('"'), text.rfind('"')) {
        (Some(from), Some(to)) if from < to => format!("{}...{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

/// One setting that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Such as `queue.url`.
    pub setting: String,
    /// Without secrets.
    pub value: String,
    /// Where it was set.
    pub from: String,
}

/// Reads the settings in force, and where each of them was set.
///
/// # Errors
/// A file cannot be read, a setting is unknown or has a value that it cannot have.
pub fn load(
    file: Option<&Path>,
    flags: &[(String, String)],
) -> Result<(Settings, Vec<Origin>), SettingsError> {
    let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        layers = layers.add_source(File::from(file).format(FileFormat::Toml));
    }
    let environment = Environment::with_prefix(ENVIRONMENT)
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .list_separator(",")
        .with_list_parse_key("inputs.allow")
        .with_list_parse_key("queue.retry_delays");
    layers = layers.add_source(environment);
    // The short name that the other commands know too.
    if let Ok(model) = std::env::var("FLAMINGO_MODEL") {
        let short = HashMap::from([("MODEL__PATH".to_owned(), model)]);
        layers = layers.add_source(Environment::default().separator("__").source(Some(short)));
    }
    // Parsed, a token that is all digits would be a number, and lose its zeros.
    if let Ok(token) = std::env::var("FLAMINGO__STATUS__TOKEN") {
        let as_it_is = HashMap::from([("STATUS__TOKEN".to_owned(), token)]);
        layers = layers.add_source(Environment::default().separator("__").source(Some(as_it_is)));
    }
    for (setting, value) in flags {
        let list = ["inputs.allow", "queue.retry_delays"].contains(&setting.as_str());
        layers = if list {
            let parts = value.split(',').filter(|part| !part.is_empty());
            layers.set_override(setting, parts.map(String::from).collect::<Vec<_>>())?
        } else {
            layers.set_override(setting, value.as_str())?
        };
    }
    let layers = layers.build()?;
    let settings: Settings = layers.clone().try_deserialize()?;
    settings.check()?;
    let mut origins = Vec::new();
    trace(String::new(), &layers.cache, flags, &mut origins);
    origins.sort_by(|a, b| a.setting.cmp(&b.setting));
    Ok((settings, origins))
}

fn trace(setting: String, value: &Value, flags: &[(String, String)], found: &mut Vec<Origin>) {
    if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            let dot = if setting.is_empty() { "" } else { "." };
            trace(format!("{setting}{dot}{name}"), value, flags, found);
        }
        return;
    }
    let shown = match &value.kind {
        ValueKind::Array(list) => list.iter().map(Value::to_string).collect::<Vec<_>>().join(", "),
        ValueKind::String(text) if setting.ends_with(".url") => SecretUrl::new(text.as_str()).to_string(),
        _ if setting == "status.token" => Secret::new(value.to_string()).to_string(),
        _ => value.to_string(),
    };
    let from = if flags.iter().any(|(flag, _)| *flag == setting) { Some("a flag") } else { value.origin() };
    found.push(Origin { setting, value: shown, from: from.unwrap_or("built in").to_string() });
}

impl Settings {
    /// Refuses what means nothing, or what would make a worker loop.
    fn check(&self) -> Result<(), SettingsError> {
        let Self { queue, worker, inputs, .. } = self;
        let wrong = |setting, reason: String| Err(SettingsError::Meaningless { setting, reason });
        if worker.items == 0 {
            return wrong("worker.items", "is 0: the worker would do nothing".into());
        }
        if worker.attempts == 0 {
            return wrong("worker.attempts", "is 0: no item would be done".into());
        }
        if self.decoder.processor_time < Duration::from_secs(1)
            || self.decoder.silence < Duration::from_secs(1)
        {
            return wrong(
                "decoder.processor_time",
                "and decoder.silence are counted in whole seconds: below 1s no video is decoded".into(),
            );
        }
        if self.decoder.memory < 256 << 20 {
            return wrong("decoder.memory", "is below 256 MiB, in which hardly any video is decoded".into());
        }
        if worker.memory > 0 && worker.memory < 256 << 20 {
            return wrong(
                "worker.memory",
                "is below 256 MiB, in which hardly any video is looked at (0: no limit)".into(),
            );
        }
        if inputs.page == 0 {
            return wrong("inputs.page", "is 0: no input would be found".into());
        }
        if worker.heartbeat * 2 > worker.lease || worker.heartbeat.is_zero() {
            return wrong(
                "worker.heartbeat",
                "is not below half of worker.lease: one lost word would lose the claim".into(),
            );
        }
        // The broker takes back what is held for longer: what would take as long would never end. Four steps wait for
        // ledger or store, and the last try of each may take a while.
        let held = worker.item_deadline + worker.patience * 4 + Duration::from_secs(180);
        if self.is_remote() && held >= queue.consumer_timeout {
            return wrong(
                "worker.item_deadline",
                format!(
                    "and four times worker.patience and 3 minutes are {} s together, not less than the {} s of \
                     queue.consumer_timeout after which the broker takes a message back; shorten them, or raise \
                     consumer_timeout in the broker and here",
                    held.as_secs(),
                    queue.consumer_timeout.as_secs()
                ),
            );
        }
        if self.is_remote() && inputs.allow.iter().all(String::is_empty) {
            return wrong(
                "inputs.allow",
                "is empty: say which buckets, prefixes and folders the jobs of a shared queue may read"
                    .into(),
            );
        }
        self.retry_delays()?;
        if !self.status.token.is_empty() && self.status.token.len() < SHORTEST_TOKEN {
            return wrong("status.token", format!("is shorter than {SHORTEST_TOKEN} characters"));
        }
        self.places().map(|_| ())
    }

    /// Whether strangers may send messages.
    pub fn is_remote(&self) -> bool {
        self.queue.url.scheme() != "memory"
    }

    /// Where inputs may be; everywhere if it is empty.
    ///
    /// # Errors
    /// A place that is none.
    pub fn places(&self) -> Result<Vec<Location>, SettingsError> {
        let place = |text: &String| {
            Location::parse(text)
                .map_err(|e| SettingsError::Meaningless { setting: "inputs.allow", reason: e.to_string() })
        };
        // An empty variable is an empty list.
        self.inputs.allow.iter().filter(|text| !text.is_empty()).map(place).collect()
    }

    pub fn retry_delays(&self) -> Result<Vec<Duration>, SettingsError> {
        (1..).zip(&self.queue.retry_delays).map(|(n, delay)| parse_delay(n, delay)).collect()
    }

    /// Where fetched videos lie.
    pub fn temporary(&self) -> PathBuf {
        match self.worker.temporary.as_str() {
            "" => std::env::temp_dir(),
            folder => PathBuf::from(folder),
        }
    }

    /// As the decoder takes them.
    pub fn process(&self) -> ProcessLimits {
        let Decoder { memory, processor_time, silence, .. } = self.decoder;
        ProcessLimits { memory, cpu_s: processor_time.as_secs(), silence_s: silence.as_secs() }
    }

    /// As the loop takes them.
    pub fn worker(&self, name: String) -> WorkerSettings {
        let Worker {
            items,
            urgent,
            lease,
            heartbeat,
            item_deadline,
            grace,
            attempts,
            losses,
            patience,
            sweep,
            forgotten,
            ..
        } = self.worker;
        WorkerSettings {
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
            retry_timeout: patience,
            sweep_interval: sweep,
            message_lost_after: forgotten,
        }
    }
}

/// What stands there is not quoted: it may be a password in the wrong place.
fn parse_delay(n: usize, text: &str) -> Result<Duration, SettingsError> {
    let reason = format!("has no duration such as 30s in place {n}");
    let wrong = || SettingsError::Meaningless { setting: "queue.retry_delays", reason };
    let span = text.parse::<jiff::SignedDuration>().ok();
    span.and_then(|span| Duration::try_from(span).ok()).ok_or_else(wrong)
}
