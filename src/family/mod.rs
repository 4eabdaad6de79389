//! Model directory -> Flamingo. One file per family, each a table from its conventions to ours.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generate::StopCriteria;
use crate::language::Tokenizer;
use crate::model::{Flamingo, JointSpaces};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::Preprocess;
use crate::weights::Quantization;

pub mod native;
pub mod mini;
pub mod shape;

/// Device, number type and quantisation of a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Device of all tensors.
    pub device: Device,
    /// Type of dense tensors and activations.
    pub dtype: DType,
    /// Treatment of quantised matrices.
    pub quantization: Quantization,
}

/// A loaded model directory: the model, its tokenizer, preprocessing and prompt format.
pub struct Loaded {
    /// Name, family and hashes.
    pub info: ModelInfo,
    /// Number of parameters by part, without the language model.
    pub parameters: BTreeMap<String, usize>,
    /// The model.
    pub model: Flamingo,
    /// Joint spaces of a model that was trained contrastively.
    pub joint_space: Option<JointSpaces>,
    /// Tokenizer of the language model.
    pub tokenizer: Tokenizer,
    /// Preprocessing of frames.
    pub preprocess: Preprocess,
    /// Ids of media markers and ends of chunks.
    pub tokens: PromptTokens,
    /// Tokens that end an answer.
    pub stop_criteria: StopCriteria,
    /// Prompt format of the tasks.
    pub format: PromptFormat,
}

/// Description of a model in reports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ModelInfo {
    /// Name of the model.
    pub name: String,
    /// Family of the model.
    pub family: String,
    /// SHA-256 of the files, by role. Reports of the version before have pairs of role and hash instead.
    #[serde(deserialize_with = "object_or_pairs")]
    pub sha256: BTreeMap<String, String>,
    /// Whether any attention gate differs from 0. With all gates closed the media do not change the answer. Reports of the
    /// version before name it `sees`.
    #[serde(alias = "sees")]
    pub gates_open: bool,
}

fn object_or_pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Hashes {
        ByRole(BTreeMap<String, String>),
        Pairs(Vec<(String, String)>),
    }
    Ok(match Hashes::deserialize(deserializer)? {
        Hashes::ByRole(hashes) => hashes,
        Hashes::Pairs(pairs) => pairs.into_iter().collect(),
    })
}

/// Opens a model directory of any supported family.
///
/// # Errors
/// `config.json` is missing or unreadable, the family is unknown, or a file contradicts another.
pub fn open(directory: &Path, options: &LoadOptions) -> Result<Loaded> {
    let config = read_config(directory)?;
    match config.get("schema").and_then(Value::as_str) {
        Some(native::SCHEMA) => native::open(directory, config, options),
        Some(other) => Err(config_error(
            directory,
            format!("unknown schema `{other}`, this build reads `{}`", native::SCHEMA),
        )),
        None => Err(config_error(directory, "no `schema`: the family of this model is unknown".into())),
    }
}

/// Name of the file that describes a model.
pub const CONFIG: &str = "config.json";
/// Largest description in bytes; a usual one has a few kilobytes.
const CONFIG_LIMIT: u64 = 1 << 20;

fn read_config(directory: &Path) -> Result<Value> {
    let path = directory.join(CONFIG);
    let length = std::fs::metadata(&path).map_err(|e| config_error(directory, e.to_string()))?.len();
    if length > CONFIG_LIMIT {
        return Err(config_error(
            directory,
            format!("the description has {length} bytes, at most {CONFIG_LIMIT} are allowed"),
        ));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| config_error(directory, e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| config_error(directory, e.to_string()))
}

fn config_error(directory: &Path, reason: String) -> Error {
    Error::Config { path: directory.join(CONFIG), reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_model_info_of_previous_version() {
        let info = ModelInfo {
            name: "mini".into(),
            family: "flamingo".into(),
            sha256: BTreeMap::from([("adapters".into(), "ab".into()), ("language".into(), "cd".into())]),
            gates_open: true,
        };
        let written = serde_json::to_value(&info).unwrap();
        let expected = json!({
            "name": "mini", "family": "flamingo", "sha256": {"adapters": "ab", "language": "cd"}, "gates_open": true,
        });
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<ModelInfo>(written).unwrap(), info);
        let previous = json!({
            "name": "mini", "family": "flamingo", "sha256": [["adapters", "ab"], ["language", "cd"]], "sees": true,
        });
        assert_eq!(serde_json::from_value::<ModelInfo>(previous).unwrap(), info);
    }
}
