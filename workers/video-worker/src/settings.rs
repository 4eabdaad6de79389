//! Settings: built-in defaults, overridden by a file, the environment, and flags, in this order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, ConfigError, Environment, File, FileFormat, Source, Value, ValueKind};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as human;
use jobs::job::SecretUrl;
use jobs::retry::Backoff;
use jobs::worker;
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

/// The built-in defaults: every setting with its explanation.
const DEFAULTS: &str = include_str!("../../../config/default.toml");

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
    #[serde(with = "human")]
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
    #[serde(with = "human")]
    pub connect_timeout: Duration,
    #[serde(with = "human")]
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
    pub retry_timeout: Duration,
    #[serde(with = "human")]
    pub sweep: Duration,
    #[serde(with = "human")]
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
    #[serde(with = "human")]
    pub processor_time: Duration,
    #[serde(with = "human")]
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

/// Shortest allowed token, in characters.
const MIN_TOKEN_LENGTH: usize = 16;

/// Error in the settings. The text names the setting and its source.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings: {0}")]
    Malformed(String),
    #[error("settings: {setting} {reason}")]
    Invalid { setting: &'static str, reason: String },
}

/// Converts without the value, which may be a misplaced password.
impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        let at = |origin: Option<String>| origin.map(|o| format!(" (set in {o})")).unwrap_or_default();
        Self::Malformed(match error {
            ConfigError::FileParse { uri, .. } => format!("{} is not a TOML file", uri.unwrap_or_default()),
            ConfigError::Type { origin, expected, key, .. } => {
                format!("{} is not {expected}{}", key.unwrap_or_else(|| "a setting".into()), at(origin))
            }
            ConfigError::At { error, origin, key } => {
                let SettingsError::Malformed(inner) = Self::from(*error) else {
                    unreachable!("converted from a ConfigError")
                };
                format!("{}: {inner}{}", key.unwrap_or_default(), at(origin))
            }
            other => without_values(&other.to_string()),
        })
    }
}

/// Removes values from an error text. serde puts unexpected values between double quotes and names between backticks; the
/// text about an unknown variant quotes it in other ways.
fn without_values(text: &str) -> String {
    if ["variant constructor ", "unknown variant "].iter().any(|said| text.contains(said)) {
        return "not one of the values of this setting".into();
    }
    match (text.find('"'), text.rfind('"')) {
        (Some(from), Some(to)) if from < to => format!("{}...{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

/// An effective setting with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Such as `queue.url`.
    pub setting: String,
    /// The value, with secrets masked.
    pub value: String,
    /// Source of the value.
    pub from: String,
}

/// Loads the effective settings, and the source of each.
///
/// # Errors
/// A file cannot be read, or a setting is unknown or invalid.
pub fn load(
    file: Option<&Path>,
    flags: &[(String, String)],
) -> Result<(Settings, Vec<Origin>), SettingsError> {
    let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        layers = layers.add_source(RenamedKeys(File::from(file).format(FileFormat::Toml)));
    }
    let environment = Environment::with_prefix(ENVIRONMENT)
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .list_separator(",")
        .with_list_parse_key("inputs.allow")
        .with_list_parse_key("queue.retry_delays");
    layers = layers.add_source(RenamedKeys(environment));
    // The short variable that the other commands use too.
    if let Ok(model) = std::env::var("FLAMINGO_MODEL") {
        let short = HashMap::from([("MODEL__PATH".to_owned(), model)]);
        layers = layers.add_source(Environment::default().separator("__").source(Some(short)));
    }
    // Parsing would turn a token of digits into a number and drop its leading zeros.
    if let Ok(token) = std::env::var("FLAMINGO__STATUS__TOKEN") {
        let verbatim = HashMap::from([("STATUS__TOKEN".to_owned(), token)]);
        layers = layers.add_source(Environment::default().separator("__").source(Some(verbatim)));
    }
    for (setting, value) in flags {
        let setting = current_name(setting);
        let list = ["inputs.allow", "queue.retry_delays"].contains(&setting);
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
    collect_origins(String::new(), &layers.cache, flags, &mut origins);
    origins.sort_by(|a, b| a.setting.cmp(&b.setting));
    Ok((settings, origins))
}

/// Settings with a new name: old name, new name. The old name is accepted for one version.
const RENAMED: [(&str, &str); 1] = [("worker.patience", "worker.retry_timeout")];

fn current_name(setting: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == setting).map_or(setting, |(_, new)| new)
}

/// A source whose settings may have their old names. A serde alias would not do: the defaults below this layer already
/// contain the new name, so both would be set.
#[derive(Debug, Clone)]
struct RenamedKeys<S>(S);

impl<S: Source + Clone + Send + Sync + 'static> Source for RenamedKeys<S> {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, ConfigError> {
        let mut settings = self.0.collect()?;
        for (old, new) in RENAMED {
            // The environment gives dotted names, a file gives tables.
            if let Some(value) = settings.remove(old) {
                settings.insert(new.to_owned(), value);
            }
            let (Some((table, old)), Some((_, new))) = (old.split_once('.'), new.split_once('.')) else {
                continue;
            };
            if let Some(ValueKind::Table(table)) = settings.get_mut(table).map(|value| &mut value.kind)
                && let Some(value) = table.remove(old)
            {
                table.insert(new.to_owned(), value);
            }
        }
        Ok(settings)
    }
}

fn collect_origins(setting: String, value: &Value, flags: &[(String, String)], found: &mut Vec<Origin>) {
    if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            let dot = if setting.is_empty() { "" } else { "." };
            collect_origins(format!("{setting}{dot}{name}"), value, flags, found);
        }
        return;
    }
    let text = match &value.kind {
        ValueKind::Array(list) => list.iter().map(Value::to_string).collect::<Vec<_>>().join(", "),
        ValueKind::String(text) if setting.ends_with(".url") => SecretUrl::new(text.as_str()).to_string(),
        _ if setting == "status.token" => Secret::new(value.to_string()).to_string(),
        _ => value.to_string(),
    };
    let from = if flags.iter().any(|(flag, _)| current_name(flag) == setting) {
        Some("a flag")
    } else {
        value.origin()
    };
    found.push(Origin { setting, value: text, from: from.unwrap_or("built in").to_string() });
}

impl Settings {
    /// Rejects values that are meaningless or would make a worker loop.
    fn check(&self) -> Result<(), SettingsError> {
        let Self { queue, worker, inputs, .. } = self;
        let wrong = |setting, reason: String| Err(SettingsError::Invalid { setting, reason });
        if worker.items == 0 {
            return wrong("worker.items", "is 0, so the worker would process nothing".into());
        }
        if worker.attempts == 0 {
            return wrong("worker.attempts", "is 0, so no item would be processed".into());
        }
        if self.decoder.processor_time < Duration::from_secs(1)
            || self.decoder.silence < Duration::from_secs(1)
        {
            return wrong(
                "decoder.processor_time",
                "and decoder.silence are counted in whole seconds; below 1s no video can be decoded".into(),
            );
        }
        if self.decoder.memory < 256 << 20 {
            return wrong("decoder.memory", "is below 256 MiB, too little for most videos".into());
        }
        if worker.memory > 0 && worker.memory < 256 << 20 {
            return wrong(
                "worker.memory",
                "is below 256 MiB, too little for most videos (0: no limit)".into(),
            );
        }
        if inputs.page == 0 {
            return wrong("inputs.page", "is 0, so no input would be listed".into());
        }
        if worker.heartbeat * 2 > worker.lease || worker.heartbeat.is_zero() {
            return wrong(
                "worker.heartbeat",
                "is not below half of worker.lease; one lost heartbeat would lose the claim".into(),
            );
        }
        // The broker takes back a message that is held longer, and its item would never finish. Four steps wait for ledger or
        // store, and the last try of each may take a while.
        let held = worker.item_deadline + worker.retry_timeout * 4 + Duration::from_secs(180);
        if self.is_remote() && held >= queue.consumer_timeout {
            return wrong(
                "worker.item_deadline",
                format!(
                    "and four times worker.retry_timeout and 3 minutes are {} s together, not less than the {} s of \
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
                "is empty; list the buckets, prefixes and folders that jobs of a shared queue may read"
                    .into(),
            );
        }
        self.retry_delays()?;
        if !self.status.token.is_empty() && self.status.token.len() < MIN_TOKEN_LENGTH {
            return wrong("status.token", format!("is shorter than {MIN_TOKEN_LENGTH} characters"));
        }
        self.places().map(|_| ())
    }

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
            items,
            urgent,
            lease,
            heartbeat,
            deadline: item_deadline,
            grace,
            attempts,
            losses,
            backoff: Backoff { first: self.worker.backoff_first, most: self.worker.backoff_most },
            patience: retry_timeout,
            sweep,
            forgotten,
        }
    }
}

/// Parses a delay. The text is not quoted in the error: it may be a misplaced password.
fn parse_delay(n: usize, text: &str) -> Result<Duration, SettingsError> {
    let reason = format!("has no duration such as 30s in place {n}");
    let wrong = || SettingsError::Invalid { setting: "queue.retry_delays", reason };
    let span = text.parse::<jiff::SignedDuration>().ok();
    span.and_then(|span| Duration::try_from(span).ok()).ok_or_else(wrong)
}
