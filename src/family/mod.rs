//! Model directory -> Flamingo. One file per family, each a table from its conventions to ours.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generate::StopCriteria;
use crate::language::Tokenizer;
use crate::language::hugging_face::read_json;
use crate::model::{Flamingo, FlamingoParts, JointSpaces};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::Preprocess;
use crate::weights::{HeaderCheck, Quantization};

pub mod frame_mode;
pub mod chat_template;
mod checkpoint;
mod preprocessor;
mod clip;
pub mod native;
mod idefics;
mod open_flamingo;
mod dhansmair;
mod otter;
pub mod mllama;
pub mod mini;
pub mod shape;

pub use frame_mode::{FrameMode, Frames};

/// Device, number type and quantisation of a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Device of all tensors.
    pub device: Device,
    /// Type of dense tensors and activations.
    pub dtype: DType,
    /// Treatment of quantised matrices.
    pub quantization: Quantization,
    /// Choices that some families leave open.
    pub family: FamilyOptions,
    /// Hash the weights of the language model too, for caches of what it computes. This reads its files once more.
    pub hash_language: bool,
    /// Record of a load that reads the headers of the files only; see [`header_problems`].
    headers: Option<HeaderCheck>,
}

impl LoadOptions {
    /// Creates options without choices for single families.
    pub fn new(device: Device, dtype: DType, quantization: Quantization) -> Self {
        Self {
            device,
            dtype,
            quantization,
            family: FamilyOptions::default(),
            hash_language: false,
            headers: None,
        }
    }
}

/// Choices that some families leave open. `None`: as the model directory says, else the default of the family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilyOptions {
    /// Treatment of tokens before the first image, in Llama 3.2 Vision.
    pub row_mask: Option<mllama::RowMask>,
    /// Treatment of the frames of a video, in a model without temporal training.
    pub frame_mode: Option<FrameMode>,
}

impl FamilyOptions {
    /// Refuses choices that a family does not have.
    fn check(&self, family: &Family) -> Result<(), String> {
        let given = [("frame_mode", self.frame_mode.is_some()), ("row_mask", self.row_mask.is_some())];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) if !family.has_options => Err(format!(
                "`{name}` does not apply to a model of {}; it is a choice of Llama 3.2 Vision (model type `mllama`)",
                family.reads
            )),
            _ if self.frame_mode == Some(FrameMode::Joint) => {
                Err("`frame_mode` is `joint`: the model has no map from several frames to one medium".into())
            }
            _ => Ok(()),
        }
    }
}

/// A loaded model directory: the model, its tokenizer, preprocessing and prompt format.
pub struct Loaded {
    /// Name, family and hashes.
    pub info: ModelInfo,
    /// SHA-256 of all that visual tokens depend on but the video: [`ModelParts::visual_sha256`].
    pub visual_sha256: String,
    /// SHA-256 of the weights of the language model and the gated cross-attention: [`ModelParts::language_sha256`].
    pub language_sha256: Option<String>,
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
    /// Treatment of the frames of a video.
    pub frame_mode: FrameMode,
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
    /// Treatment of the frames of a medium. Models of the version before, which do not name it, have a temporal embedding.
    #[serde(default)]
    pub frames: Frames,
    /// Note about the frames of a model without temporal training: [`Frames::note`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_note: Option<String>,
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

/// Parts of a model, as its family loads them from a directory.
pub struct ModelParts {
    /// Name of the model.
    pub name: String,
    /// Name of the family.
    pub family: &'static str,
    /// SHA-256 of the files, by role.
    pub sha256: BTreeMap<String, String>,
    /// SHA-256 of the weights and configurations of vision encoder and resampler, and of the preprocessing. Caches of visual
    /// tokens name it in their keys; the language model does not change it.
    pub visual_sha256: String,
    /// SHA-256 of all weights that keys and values depend on but those of the visual part. `None`: the load did not ask for it.
    pub language_sha256: Option<String>,
    /// Number of parameters by part, without the language model.
    pub parameters: BTreeMap<String, usize>,
    /// Vision encoder, resampler or none, layer plan with gated cross-attentions, language model, media attention rule.
    pub flamingo: FlamingoParts,
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
    /// Treatment of the frames of a video.
    pub frame_mode: FrameMode,
}

impl ModelParts {
    /// Joins the parts to a model.
    ///
    /// # Errors
    /// The layer plan is not complete.
    pub fn join(self) -> Result<Loaded> {
        let Self { name, family, sha256, parameters, flamingo, joint_space, tokenizer, preprocess, .. } =
            self;
        let model = Flamingo::from_parts(flamingo)?;
        let gates_open = model.gates_open()?;
        let frames = self.frame_mode.frames(&model);
        let frames_note = frames.note().map(str::to_owned);
        let info = ModelInfo { name, family: family.into(), sha256, gates_open, frames, frames_note };
        let (tokens, stop_criteria, format) = (self.tokens, self.stop_criteria, self.format);
        Ok(Loaded {
            info,
            visual_sha256: self.visual_sha256,
            language_sha256: self.language_sha256,
            parameters,
            model,
            joint_space,
            tokenizer,
            preprocess,
            tokens,
            stop_criteria,
            format,
            frame_mode: self.frame_mode,
        })
    }
}

/// A checkpoint family: a way to recognise its directories, and their reader.
struct Family {
    /// Description of the directories that it reads, for errors.
    reads: &'static str,
    recognises: fn(&Contents) -> bool,
    /// Whether the choices of [`FamilyOptions`] apply.
    has_options: bool,
    open: fn(&Path, Contents, &LoadOptions) -> Result<ModelParts>,
}

/// All families. A new one is a file of its own and a row here.
const FAMILIES: [Family; 6] = [
    native::FAMILY,
    idefics::FAMILY,
    open_flamingo::FAMILY,
    dhansmair::FAMILY,
    otter::FAMILY,
    mllama::FAMILY,
];

/// Contents of a model directory by which a family recognises it.
struct Contents {
    /// `config.json`; null if there is none.
    config: Value,
    /// Names of the files, sorted.
    files: Vec<String>,
}

impl Contents {
    fn read(directory: &Path) -> Result<Self> {
        let error = |e: std::io::Error| config_error(directory, e.to_string());
        let entries = std::fs::read_dir(directory).map_err(error)?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            Ok(entry.map_err(error)?.file_name().to_string_lossy().into_owned())
        };
        let mut files = entries.map(name).collect::<Result<Vec<_>>>()?;
        files.sort();
        let described = files.iter().any(|file| file == CONFIG);
        let config = if described { read_config(directory)? } else { Value::Null };
        Ok(Self { config, files })
    }

    /// Returns a string of `config.json`: `schema` of our own directories, `model_type` of Hugging Face's.
    fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key).and_then(Value::as_str)
    }

    /// Describes the contents in words.
    fn describe(&self) -> String {
        const MOST_FILES: usize = 8;
        if let Some(schema) = self.text("schema") {
            return format!("unknown schema `{schema}`");
        }
        if let Some(model_type) = self.text("model_type") {
            return format!("unknown model type `{model_type}`");
        }
        let mut files = self.files.iter().take(MOST_FILES).cloned().collect::<Vec<_>>().join(", ");
        if self.files.len() > MOST_FILES {
            files += " ...";
        }
        format!("a directory with the files [{files}] and neither `schema` nor `model_type` in {CONFIG}")
    }
}

/// Opens a model directory. Its family is found by the contents: our `schema`, else `model_type` and file names.
///
/// # Errors
/// No family recognises the directory, or a file is missing, unreadable or contradicts another.
pub fn open(directory: &Path, options: &LoadOptions) -> Result<Loaded> {
    open_parts(directory, options)?.join()
}

/// Compares the tensors of a model directory with those that the model takes, from the headers of the files: no values are read.
/// Returns a sentence per tensor that is missing or has another shape, and one per part with the number and the first names of its
/// unused tensors.
///
/// # Errors
/// As [`open`], for everything but the tensors.
pub fn header_problems(directory: &Path, options: &LoadOptions) -> Result<Vec<String>> {
    let check = HeaderCheck::default();
    open_parts(
        directory,
        &LoadOptions { device: Device::Cpu, headers: Some(check.clone()), ..options.clone() },
    )?;
    Ok(check.problems())
}

fn open_parts(directory: &Path, options: &LoadOptions) -> Result<ModelParts> {
    let contents = Contents::read(directory)?;
    match FAMILIES.iter().find(|family| (family.recognises)(&contents)) {
        Some(family) => {
            options.family.check(family).map_err(|reason| config_error(directory, reason))?;
            (family.open)(directory, contents, options)
        }
        None => {
            let supported = FAMILIES.map(|family| family.reads).join(", ");
            Err(config_error(directory, format!("{}; this build reads {supported}", contents.describe())))
        }
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

/// Reads a JSON file; null if there is none.
fn optional_json(path: &Path) -> Result<Value> {
    if path.exists() { read_json(path) } else { Ok(Value::Null) }
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
            frames: Frames::TemporalEmbedding,
            frames_note: None,
        };
        let written = serde_json::to_value(&info).unwrap();
        let expected = json!({
            "name": "mini", "family": "flamingo", "sha256": {"adapters": "ab", "language": "cd"}, "gates_open": true,
            "frames": "temporal_embedding",
        });
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<ModelInfo>(written).unwrap(), info);
        let previous = json!({
            "name": "mini", "family": "flamingo", "sha256": [["adapters", "ab"], ["language", "cd"]], "sees": true,
        });
        assert_eq!(serde_json::from_value::<ModelInfo>(previous).unwrap(), info);
    }

    #[test]
    fn choices_of_other_families_are_refused() {
        let none = FamilyOptions::default();
        let mode = |mode| FamilyOptions { frame_mode: Some(mode), row_mask: None };
        let mask = FamilyOptions { frame_mode: None, row_mask: Some(mllama::RowMask::Hf) };
        for (options, family, expected) in [
            (&none, native::FAMILY, None),
            (&none, mllama::FAMILY, None),
            (&mode(FrameMode::Captions), mllama::FAMILY, None),
            (&mask, mllama::FAMILY, None),
            (&mode(FrameMode::Joint), mllama::FAMILY, Some("`frame_mode` is `joint`")),
            (
                &mode(FrameMode::Sheet),
                native::FAMILY,
                Some("`frame_mode` does not apply to a model of schema `flamingo/1`"),
            ),
            (&mask, idefics::FAMILY, Some("`row_mask` does not apply to a model of model type `idefics`")),
        ] {
            let error = options.check(&family).err();
            assert_eq!(error.is_some(), expected.is_some(), "{error:?}");
            assert!(error.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{expected:?}");
        }
    }

    #[test]
    fn unknown_directory_error_names_contents_and_families() {
        let folder = tempfile::tempdir().unwrap();
        let options = LoadOptions::new(Device::Cpu, DType::F32, Quantization::Keep);
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let check = |expected: &str| {
            let error = open(folder.path(), &options).err().expect("an error");
            assert_eq!(error.code(), "bad_model_config");
            let expected = format!(
                "config.json: {expected}; this build reads schema `flamingo/1`, model type `idefics`, schema `open_flamingo/1`, schema `dhansmair/1`, model type `otter` or `flamingo`, model type `mllama`"
            );
            assert!(error.to_string().ends_with(&expected), "{error}");
        };
        check("a directory with the files [] and neither `schema` nor `model_type` in config.json");
        write("checkpoint.pt", "");
        check(
            "a directory with the files [checkpoint.pt] and neither `schema` nor `model_type` in config.json",
        );
        write("config.json", r#"{"model_type": "blip"}"#);
        check("unknown model type `blip`");
        write("config.json", r#"{"schema": "flamingo/99", "model_type": "idefics"}"#);
        check("unknown schema `flamingo/99`");
    }
}
