//! A model directory -> Flamingo. One file per family, each a table from its conventions to ours.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generate::TokenRules;
use crate::language::Tokenizer;
use crate::model::{Flamingo, JointSpaces};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::Preprocess;
use crate::weights::Quantization;

pub mod native;
pub mod mini;
pub mod shape;

/// Where and how a model runs.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub device: Device,
    pub dtype: DType,
    pub quantization: Quantization,
}

/// A model directory, opened: the model and what it needs around it.
pub struct Loaded {
    pub about: About,
    /// Parameters of the parts that are not the language model.
    pub parameters: BTreeMap<String, usize>,
    pub model: Flamingo,
    /// Of a model that was trained contrastively.
    pub joint_space: Option<JointSpaces>,
    pub tokenizer: Tokenizer,
    pub preprocess: Preprocess,
    pub tokens: PromptTokens,
    pub rules: TokenRules,
    pub format: PromptFormat,
}

/// What a report says of the model that answered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct About {
    pub name: String,
    pub family: &'static str,
    /// SHA-256 of the files, by role.
    pub sha256: Vec<(String, String)>,
    /// Whether any gate is open: with all gates closed the language model cannot see.
    pub sees: bool,
}

/// Opens a model directory of any family that this build knows.
///
/// # Errors
/// No readable `config.json`, an unknown family, or anything in the directory that does not fit the rest.
pub fn open(directory: &Path, options: &LoadOptions) -> Result<Loaded> {
    let config = read_config(directory)?;
    match config.get("schema").and_then(Value::as_str) {
        Some(native::SCHEMA) => native::open(directory, config, options),
        Some(other) => Err(config_error(
            directory,
            format!("unknown schema `{other}`, this build reads `{}`", native::SCHEMA),
        )),
        None => Err(config_error(
            directory,
            "no `schema`: this build does not know the family of this model".into(),
        )),
    }
}

/// The file that describes a model.
pub const CONFIG: &str = "config.json";
/// A description is a few kilobytes.
const CONFIG_LIMIT: u64 = 1 << 20;

fn read_config(directory: &Path) -> Result<Value> {
    let path = directory.join(CONFIG);
    let length = std::fs::metadata(&path).map_err(|e| config_error(directory, e.to_string()))?.len();
    if length > CONFIG_LIMIT {
        return Err(config_error(directory, format!("{length} bytes are no description of a model")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| config_error(directory, e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| config_error(directory, e.to_string()))
}

fn config_error(directory: &Path, reason: String) -> Error {
    Error::Config { path: directory.join(CONFIG), reason }
}
