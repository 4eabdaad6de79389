//! Registry of language model architectures. A new one is a file of its own, a variant here and a row of the table.

use super::LanguageModel;
use super::gguf::{self, Gguf};
use super::hugging_face::{self, ModelDirectory};
use super::llama::{Llama, LlamaConfig};
use crate::error::Result;
use crate::weights::{Rename, Weights};

/// Configuration of a language model, one variant per architecture.
#[derive(Debug, Clone, PartialEq)]
pub enum LanguageConfig {
    /// Llama family.
    Llama(LlamaConfig),
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
        }
    }

    /// Refuses sizes that no model has.
    ///
    /// # Errors
    /// The size that is out of bounds, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        match self {
            LanguageConfig::Llama(config) => config.check(),
        }
    }
}

/// Builds a language model from `weights`; the caller finishes the weights.
///
/// # Errors
/// A tensor is missing or has another shape.
pub fn build(config: &LanguageConfig, weights: &Weights) -> Result<Box<dyn LanguageModel>> {
    Ok(match config {
        LanguageConfig::Llama(config) => Box::new(Llama::new(config.clone(), weights)?),
    })
}

/// Readers of one architecture.
pub(super) struct Architecture {
    /// `general.architecture` in GGUF and `model_type` in Hugging Face's format.
    name: &'static str,
    pub(super) from_gguf: fn(&Gguf) -> Result<LanguageConfig>,
    pub(super) from_hugging_face: fn(&ModelDirectory) -> Result<LanguageConfig>,
    /// Table from the names of a GGUF file to ours.
    pub(super) gguf_names: fn(&str) -> Rename,
    /// Table from Hugging Face's names to ours.
    pub(super) hugging_face_names: fn(&LanguageConfig, &str) -> Rename,
}

const ARCHITECTURES: [Architecture; 1] = [Architecture {
    name: "llama",
    from_gguf: |gguf| gguf.llama_config().map(LanguageConfig::Llama),
    from_hugging_face: |directory| directory.llama_config().map(LanguageConfig::Llama),
    gguf_names: gguf::llama_names,
    hugging_face_names: |config, name| hugging_face::llama_name(config.sizes().tied, name),
}];

pub(super) fn architecture(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}
