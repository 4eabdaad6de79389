//! One variant per stage. An error says what happened to which input; what to do about it is the caller's business.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Video(#[from] VideoError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A model directory whose description contradicts itself or names what this build does not have.
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A prompt that cannot be asked of this model: media without a marker, too many tokens, an unknown marker.
    #[error("prompt: {0}")]
    Prompt(String),
    /// The tensor library refused an operation: a bug, a broken device or out of memory.
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// The stable code of this error, part of the public contract (`snake_case`, never renamed).
    pub fn code(&self) -> &'static str {
        match self {
            Error::Video(e) => e.code(),
            Error::Weights(_) => "bad_checkpoint",
            Error::Config { .. } => "bad_model_config",
            Error::Tokenizer(_) => "bad_tokenizer",
            Error::Prompt(_) => "bad_prompt",
            Error::Tensor(_) => "model_error",
        }
    }
}

/// Why a video did not become frames. Limits say what was found and what was allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl VideoError {
    pub fn code(&self) -> &'static str {
        match self {
            VideoError::Io { .. } => "io",
        }
    }
}

/// Why a checkpoint did not become a model. Every message names the tensors or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: not a readable {format} file: {reason}")]
    Malformed { path: PathBuf, format: &'static str, reason: String },
    #[error("{path}: SHA-256 is {found}, expected {expected}")]
    Hash { path: PathBuf, expected: String, found: String },
    #[error("{origin}: tensor `{name}` is missing")]
    Missing { origin: String, name: String },
    #[error("{origin}: tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape { origin: String, name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{origin}: tensor `{name}` cannot be read: {reason}")]
    Unreadable { origin: String, name: String, reason: String },
    #[error("{origin}: several tensors stand for `{name}` and differ")]
    Aliases { origin: String, name: String },
    #[error("{origin}: {} tensors are not part of the model: {}", names.len(), first_names(names))]
    Unused { origin: String, names: Vec<String> },
}

fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
