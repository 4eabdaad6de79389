//! Registry of language model architectures. A new one is a file of its own, a variant here and a row of each table.

use serde_json::Value;

use super::LanguageModel;
use super::gguf::{self, Gguf};
use super::gpt_neox::{self, GptNeoX, GptNeoXConfig};
use super::hugging_face;
use super::llama::{Llama, LlamaConfig};
use super::mpt::{self, Mpt, MptConfig};
use super::opt::{self, Opt, OptConfig};
use crate::error::Result;
use crate::weights::{Rename, Weights};

/// Configuration of a language model, one variant per architecture.
#[derive(Debug, Clone, PartialEq)]
pub enum LanguageConfig {
    /// Llama family.
    Llama(LlamaConfig),
    /// MPT and MosaicGPT.
    Mpt(MptConfig),
    /// GPT-NeoX.
    GptNeoX(GptNeoXConfig),
    /// OPT.
    Opt(OptConfig),
}

/// Sizes of a language model, from which its cost follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanguageSizes {
    /// Rows of the embedding and of the head.
    pub vocabulary: usize,
    /// Width d of the hidden state.
    pub width: usize,
    /// Hidden width of the feed-forward.
    pub ffn_width: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_width: usize,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// Parameters in the matrices of one layer.
    pub layer_matrices: usize,
    /// Parameters of the whole model.
    pub parameters: usize,
}

impl LanguageConfig {
    /// Returns the sizes.
    pub fn sizes(&self) -> LanguageSizes {
        match self {
            LanguageConfig::Llama(config) => config.sizes(),
            LanguageConfig::Mpt(config) => config.sizes(),
            LanguageConfig::GptNeoX(config) => config.sizes(),
            LanguageConfig::Opt(config) => config.sizes(),
        }
    }

    /// Refuses sizes that no model has.
    ///
    /// # Errors
    /// The size that is out of bounds, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        match self {
            LanguageConfig::Llama(config) => config.check(),
            LanguageConfig::Mpt(config) => config.check(),
            LanguageConfig::GptNeoX(config) => config.check(),
            LanguageConfig::Opt(config) => config.check(),
        }
    }

    /// Changes the number of rows of the embedding and of the head: a checkpoint that added tokens has its own.
    pub fn with_vocabulary(mut self, rows: usize) -> Self {
        match &mut self {
            LanguageConfig::Llama(config) => config.vocabulary = rows,
            LanguageConfig::Mpt(config) => config.vocabulary = rows,
            LanguageConfig::GptNeoX(config) => config.vocabulary = rows,
            LanguageConfig::Opt(config) => config.vocabulary = rows,
        }
        self
    }
}

/// Builds a language model from `weights`; the caller finishes the weights.
///
/// # Errors
/// A tensor is missing or has another shape.
pub fn build(config: &LanguageConfig, weights: &Weights) -> Result<Box<dyn LanguageModel>> {
    Ok(match config {
        LanguageConfig::Llama(config) => Box::new(Llama::new(config.clone(), weights)?),
        LanguageConfig::Mpt(config) => Box::new(Mpt::new(config.clone(), weights)?),
        LanguageConfig::GptNeoX(config) => Box::new(GptNeoX::new(config.clone(), weights)?),
        LanguageConfig::Opt(config) => Box::new(Opt::new(config.clone(), weights)?),
    })
}

/// Reader of one architecture in Hugging Face's format.
pub(super) struct HuggingFaceReader {
    /// `model_type` of `config.json`.
    model_type: &'static str,
    /// Reader of `config.json`; its error is the reason why this build cannot run the model.
    pub(super) config: fn(&Value) -> Result<LanguageConfig, String>,
    /// Table from the names of the files to ours.
    pub(super) names: fn(&LanguageConfig, &str) -> Rename,
}

const HUGGING_FACE: [HuggingFaceReader; 7] = [
    HuggingFaceReader {
        model_type: "llama",
        config: |json| LlamaConfig::from_hugging_face(json).map(LanguageConfig::Llama),
        names: |config, name| hugging_face::llama_name(config.sizes().tied, name),
    },
    HuggingFaceReader {
        model_type: "mistral",
        config: |json| LlamaConfig::from_mistral(json).map(LanguageConfig::Llama),
        names: |config, name| hugging_face::llama_name(config.sizes().tied, name),
    },
    HuggingFaceReader {
        model_type: "qwen2",
        config: |json| LlamaConfig::from_qwen2(json).map(LanguageConfig::Llama),
        names: |config, name| hugging_face::llama_name(config.sizes().tied, name),
    },
    HuggingFaceReader {
        model_type: "mpt",
        config: |json| MptConfig::from_mpt(json).map(LanguageConfig::Mpt),
        names: |_, name| mpt::hugging_face_name(name),
    },
    HuggingFaceReader {
        model_type: "mosaic_gpt",
        config: |json| MptConfig::from_mosaic_gpt(json).map(LanguageConfig::Mpt),
        names: |_, name| mpt::hugging_face_name(name),
    },
    HuggingFaceReader {
        model_type: "gpt_neox",
        config: |json| GptNeoXConfig::from_hugging_face(json).map(LanguageConfig::GptNeoX),
        names: |config, name| gpt_neox::hugging_face_name(config.sizes().tied, name),
    },
    HuggingFaceReader {
        model_type: "opt",
        config: |json| OptConfig::from_hugging_face(json).map(LanguageConfig::Opt),
        names: |_, name| opt::hugging_face_name(name),
    },
];

pub(super) fn hugging_face_reader(model_type: &str) -> Option<&'static HuggingFaceReader> {
    HUGGING_FACE.iter().find(|reader| reader.model_type == model_type)
}

/// Reader of one architecture in GGUF.
pub(super) struct GgufReader {
    /// `general.architecture` of the metadata.
    architecture: &'static str,
    /// Reader of the metadata.
    pub(super) config: fn(&Gguf) -> Result<LanguageConfig>,
    /// Table from the names of the file to ours.
    pub(super) names: fn(&str) -> Rename,
}

const GGUF: [GgufReader; 2] = [
    GgufReader {
        architecture: "llama",
        config: |gguf| gguf.llama_config().map(LanguageConfig::Llama),
        names: gguf::llama_names,
    },
    GgufReader {
        architecture: "qwen2",
        config: |gguf| gguf.qwen2_config().map(LanguageConfig::Llama),
        names: gguf::llama_names,
    },
];

pub(super) fn gguf_reader(architecture: &str) -> Option<&'static GgufReader> {
    GGUF.iter().find(|reader| reader.architecture == architecture)
}
