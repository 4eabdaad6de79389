//! Native model directories: `config.json`, the trained parts as safetensors, and a reference to the language model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CONFIG, Contents, Family, FrameMode, LoadOptions, ModelParts, config_error, read_config};
use crate::atomic_file::write_atomic;
use crate::digest;
use crate::error::{Error, Result, WeightsError};
use crate::generate::StopCriteria;
use crate::language::{self, LanguageSource, Tokenizer};
use crate::model::{FlamingoConfig, FlamingoParts, JointSpaceConfig, JointSpaces, MediaAttentionRule};
use crate::prompt::{PromptFormat, PromptTokens};
use crate::vision::{self, VisionConfig};
use crate::weights::{Quantization, Rename, Weights, sha256, verify_sha256};

/// Role of the file of the trained parts in hashes.
const ADAPTERS: &str = "adapters";
/// Role of the language model in hashes.
const LANGUAGE: &str = "language";

/// Version of the description; other versions are refused.
pub const SCHEMA: &str = "flamingo/1";

/// `config.json` of a native model directory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NativeConfig {
    /// Version of the description: [`SCHEMA`].
    pub schema: String,
    /// Name of the model.
    pub name: String,
    /// Vision encoder and preprocessing.
    pub vision: VisionConfig,
    /// Resampler and cross-attention.
    pub model: FlamingoConfig,
    /// Joint space of images, videos and texts, for a model that was trained contrastively.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint_space: Option<JointSpaceConfig>,
    /// The trained parts: vision encoder, resampler, cross-attention and joint space.
    pub adapters: WeightFile,
    /// The frozen language model: a GGUF file or a directory.
    pub language: WeightFile,
    /// Spelling of special tokens.
    pub tokens: TokenNames,
    /// Prompt format of the tasks.
    #[serde(default)]
    pub prompt: PromptFormat,
}

/// A file relative to the model directory, and its expected hash.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WeightFile {
    /// Path relative to the model directory.
    pub file: PathBuf,
    /// Expected SHA-256 in hexadecimal; not checked if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Spelling of the tokens of the language model's vocabulary that mark media and chunks.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenNames {
    /// Token at the beginning of a prompt.
    #[serde(default)]
    pub begin: Option<String>,
    /// Token that marks a medium.
    pub media: String,
    /// Token that ends a chunk.
    pub end_of_chunk: String,
    /// Token after which no earlier medium is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<String>,
    /// Further tokens that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
}

impl NativeConfig {
    /// Reads the description of a model directory.
    ///
    /// # Errors
    /// The description is missing, is of another family, or contradicts itself.
    pub fn read(directory: &Path) -> Result<Self> {
        Self::check(directory, read_config(directory)?)
    }

    fn check(directory: &Path, config: Value) -> Result<Self> {
        let error = |reason| config_error(directory, reason);
        let config: Self = serde_json::from_value(config).map_err(|e| error(e.to_string()))?;
        config.model.check().map_err(error)?;
        config.prompt.check().map_err(error)?;
        Ok(config)
    }

    /// Opens the weights of the trained parts. Reads the header only.
    ///
    /// # Errors
    /// The file is missing or malformed.
    pub fn adapters(&self, directory: &Path, options: &LoadOptions) -> Result<Weights> {
        let files = [directory.join(&self.adapters.file)];
        let unused = |name: &str| name.strip_prefix("vision.").is_some_and(|n| self.vision.ignores(n));
        let rename = |name: &str| if unused(name) { Rename::Ignore } else { Rename::To(name.into()) };
        let quantization = match options.quantization {
            Quantization::Keep | Quantization::Dequantize => Quantization::Dequantize,
            at_load => at_load,
        };
        let weights = Weights::open(&files, &options.device, options.dtype, quantization, &rename)?;
        Ok(weights.by_headers(options.headers.as_ref()))
    }
}

pub(super) const FAMILY: Family = Family {
    reads: "schema `flamingo/1`",
    recognises: |contents| contents.text("schema") == Some(SCHEMA),
    has_options: false,
    open,
};

fn open(directory: &Path, contents: Contents, options: &LoadOptions) -> Result<ModelParts> {
    let config = NativeConfig::check(directory, contents.config)?;
    let hashes = match options.headers {
        None => file_hashes(directory, &config)?,
        Some(_) => BTreeMap::new(),
    };
    let weights = config.adapters(directory, options)?;
    let parts = assemble(directory, &config, options, &weights, hashes)?;
    weights.finish()?;
    Ok(parts)
}

/// Returns the SHA-256 of the weight files by role, and verifies those that the description expects. The language model may
/// be a directory, and is named only if the description has its hash.
///
/// # Errors
/// A file cannot be read, or differs from its expected hash.
fn file_hashes(directory: &Path, config: &NativeConfig) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for (role, weights) in [(ADAPTERS, &config.adapters), (LANGUAGE, &config.language)] {
        let path = directory.join(&weights.file);
        if let Some(expected) = &weights.sha256 {
            verify_sha256(&path, expected)?;
            hashes.insert(role.to_owned(), expected.to_ascii_lowercase());
        } else if role == ADAPTERS {
            // Caches of visual tokens depend on these weights, so they are always named.
            hashes.insert(role.to_owned(), sha256(&path)?);
        }
    }
    Ok(hashes)
}

/// Returns [`ModelParts::visual_sha256`]. The file of the adapters holds the cross-attention too, so a model that differs in it
/// alone has another hash.
fn visual_sha256(config: &NativeConfig, file_hashes: &BTreeMap<String, String>) -> String {
    let mut connector = serde_json::to_value(&config.model).expect("a description serializes");
    if let Some(fields) = connector.as_object_mut() {
        fields.retain(|name, _| !["cross_attention", "media_attention"].contains(&name.as_str()));
    }
    let all = serde_json::json!([config.vision, connector, file_hashes.get(ADAPTERS)]);
    digest::sha256(all.to_string().as_bytes())
}

/// Writes a new, untrained model directory: every parameter from its initialiser, every gate closed.
///
/// # Errors
/// The directory cannot be written, or the language model of the description cannot be loaded.
pub fn create(directory: &Path, config: &NativeConfig, seed: u64) -> Result<()> {
    let options = LoadOptions::new(Device::Cpu, DType::F32, Quantization::Keep);
    let weights = Weights::random(seed, &options.device, options.dtype);
    assemble(directory, config, &options, &weights, BTreeMap::new())?;
    let tensors = weights.vars().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    write(directory, config, &tensors)
}

/// Writes a model directory: the description, with the hashes of its files, and `tensors` in bf16 as the adapters.
///
/// # Errors
/// The directory cannot be written.
pub fn write(directory: &Path, config: &NativeConfig, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::from(WeightsError::Io { path, source })
    };
    std::fs::create_dir_all(directory).map_err(io(directory))?;
    let tensors = tensors.iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::BF16)?)));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let adapters = directory.join(&config.adapters.file);
    // Not `candle_core::safetensors::save`: its files are readable by their owner only.
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| config_error(directory, format!("adapters cannot be written: {e}")))?;
    write_atomic(&adapters, &bytes).map_err(io(&adapters))?;
    let language = directory.join(&config.language.file);
    let mut config = config.clone();
    config.adapters.sha256 = Some(sha256(&adapters)?);
    if language.is_file() {
        config.language.sha256 = Some(sha256(&language)?);
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| config_error(directory, e.to_string()))?;
    let path = directory.join(CONFIG);
    write_atomic(&path, (text + "\n").as_bytes()).map_err(io(&path))
}

/// Builds all parts that `config` describes from `weights`; the caller finishes the weights.
pub(crate) fn assemble(
    directory: &Path,
    config: &NativeConfig,
    options: &LoadOptions,
    weights: &Weights,
    sha256: BTreeMap<String, String>,
) -> Result<ModelParts> {
    let source = LanguageSource::open(&directory.join(&config.language.file))?;
    let language_weights = source.weights(&options.device, options.dtype, options.quantization)?;
    let language_weights = language_weights.by_headers(options.headers.as_ref());
    let language = language::build(source.config(), &language_weights)?;
    // The file of the adapters is hashed anyway, and holds the cross-attention.
    let language_sha256 = options.hash_language.then(|| language_weights.all_sha256()).transpose()?;
    let language_sha256 = language_sha256
        .map(|weights| digest::sha256(serde_json::json!([config.model, weights]).to_string().as_bytes()));
    language_weights.finish()?;
    let tokenizer = source.tokenizer()?;
    let placement = config.model.cross_attention.placement;
    if !(0..language.n_layers()).any(|layer| placement.has(layer)) {
        return Err(config_error(
            directory,
            format!("{placement:?} leaves the language model without cross-attention"),
        ));
    }
    let vision = vision::build(&config.vision, &weights.pp("vision"))?;
    let tokens = prompt_tokens(directory, &config.tokens, &tokenizer)?;
    let stop = config.tokens.stop.iter().map(|name| token(directory, name, &tokenizer));
    let stop = std::iter::once(Ok(tokens.end_of_chunk)).chain(stop).collect::<Result<Vec<_>>>()?;
    let forget_token = config.tokens.forget.as_ref();
    let media_token = token(directory, &config.tokens.media, &tokenizer)?;
    let rule = MediaAttentionRule {
        media_token,
        forget_token: forget_token.map(|name| token(directory, name, &tokenizer)).transpose()?,
        config: config.model.media_attention,
    };
    let joint_space = config.joint_space.as_ref().map(|space| {
        JointSpaces::new(
            space,
            vision.width(),
            config.model.connector.width(vision.width()),
            &weights.dense().pp("joint_space"),
        )
    });
    let joint_space = joint_space.transpose()?;
    Ok(ModelParts {
        name: config.name.clone(),
        family: "flamingo",
        visual_sha256: visual_sha256(config, &sha256),
        language_sha256,
        sha256,
        flamingo: FlamingoParts::from_config(&config.model, vision, language, rule, weights)?,
        parameters: weights.parameters(),
        joint_space,
        tokenizer,
        preprocess: config.vision.preprocess().clone(),
        stop_criteria: StopCriteria { stop, suppressed: tokens.media.clone() },
        tokens,
        format: config.prompt.clone(),
        frame_mode: FrameMode::Joint,
    })
}

fn prompt_tokens(directory: &Path, names: &TokenNames, tokenizer: &Tokenizer) -> Result<PromptTokens> {
    Ok(PromptTokens {
        begin: names.begin.as_ref().map(|name| token(directory, name, tokenizer)).transpose()?,
        media: vec![token(directory, &names.media, tokenizer)?],
        end_of_chunk: token(directory, &names.end_of_chunk, tokenizer)?,
        answer: None,
    })
}

fn token(directory: &Path, name: &str, tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer
        .token_id(name)
        .ok_or_else(|| config_error(directory, format!("`{name}` is not in the language model's vocabulary")))
}

/// Returns `path` relative to `folder`, so that a model directory can be moved together with its language model.
///
/// # Errors
/// One of the paths does not exist.
pub fn relative(path: &Path, folder: &Path) -> Result<PathBuf> {
    let real = |p: &Path| {
        p.canonicalize().map_err(|source| Error::from(WeightsError::Io { path: p.to_path_buf(), source }))
    };
    let (path, folder) = (real(path)?, real(folder)?);
    let shared = path.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Path::new(".."));
    Ok(up.collect::<PathBuf>().join(path.components().skip(shared).collect::<PathBuf>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visual_hash_names_the_visual_parts_only() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("adapters.safetensors", "trained parts");
        write("other.safetensors", "other trained parts");
        write("language.gguf", "language model");
        let hash =
            |config: &NativeConfig| visual_sha256(config, &file_hashes(folder.path(), config).unwrap());
        let config = NativeConfig::mini("model", "language.gguf".into());
        let base = hash(&config);
        let hashed = |file: &str| {
            let file = PathBuf::from(file);
            WeightFile { sha256: Some(sha256(&folder.path().join(&file)).unwrap()), file }
        };
        let mut cross_attention = config.model.clone();
        cross_attention.cross_attention.placement.every += 1;
        for same in [
            NativeConfig { adapters: hashed("adapters.safetensors"), ..config.clone() },
            NativeConfig { language: hashed("language.gguf"), name: "other".into(), ..config.clone() },
            NativeConfig { language: hashed("other.safetensors"), ..config.clone() },
            NativeConfig { model: cross_attention, ..config.clone() },
        ] {
            assert_eq!(hash(&same), base, "{same:?}");
        }
        let mut resampler = serde_json::to_value(&config.model).unwrap();
        resampler["resampler"]["heads"] = 2.into();
        let mut vision = serde_json::to_value(&config.vision).unwrap();
        vision["preprocess"]["size"] = 160.into();
        let without_hash = WeightFile { file: "other.safetensors".into(), sha256: None };
        for other in [
            NativeConfig { adapters: without_hash, ..config.clone() },
            NativeConfig { adapters: hashed("other.safetensors"), ..config.clone() },
            NativeConfig { model: serde_json::from_value(resampler).unwrap(), ..config.clone() },
            NativeConfig { vision: serde_json::from_value(vision).unwrap(), ..config.clone() },
        ] {
            assert_ne!(hash(&other), base, "{other:?}");
        }
        // The file decides, not its name or the presence of a hash in the description.
        write("adapters.safetensors", "retrained parts");
        assert_ne!(hash(&config), base);
    }
}
