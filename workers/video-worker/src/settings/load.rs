//! Loading of settings from all sources.

use std::collections::HashMap;
use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat, Source, Value, ValueKind};
use jobs::secret_url::SecretUrl;
use serde::Deserialize;

use super::{ResourceSettings, Secret, Settings, SettingsError};

/// `FLAMINGO__QUEUE__URL` sets `queue.url`.
pub const ENVIRONMENT: &str = "FLAMINGO";

/// The built-in defaults: every setting with its explanation.
pub(super) const DEFAULTS: &str = include_str!("../../../../config/default.toml");

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
    if ["variant constructor ", "unknown variant "].iter().any(|prefix| text.contains(prefix)) {
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
    let mut origins = Vec::new();
    collect_origins(String::new(), &layers.cache, flags, &mut origins);
    origins.sort_by(|a, b| a.setting.cmp(&b.setting));
    check_names(&origins)?;
    let WorkerTable { worker: resources } = layers.clone().try_deserialize()?;
    let settings = Settings { resources, ..layers.try_deserialize()? };
    settings.check()?;
    Ok((settings, origins))
}

/// Second view of the table `worker`.
#[derive(Deserialize)]
struct WorkerTable {
    worker: ResourceSettings,
}

/// Refuses settings that the built-in defaults do not have: no struct has all settings of the table `worker`, so serde would
/// ignore them.
fn check_names(settings: &[Origin]) -> Result<(), SettingsError> {
    let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build()?;
    let mut known = Vec::new();
    collect_origins(String::new(), &defaults.cache, &[], &mut known);
    match settings.iter().find(|found| known.iter().all(|known| known.setting != found.setting)) {
        Some(Origin { setting, from, .. }) => {
            Err(SettingsError::Unknown { setting: setting.clone(), origin: from.clone() })
        }
        None => Ok(()),
    }
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
