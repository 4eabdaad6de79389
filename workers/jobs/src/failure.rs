//! Permanent failures as the public contract shows them.

use serde::{Deserialize, Serialize};

/// Maximum characters of a failure's code.
const MAX_CODE: usize = 64;
/// Maximum characters of a failure's message.
const MAX_MESSAGE: usize = 1000;

/// Reason for a failure: a stable code and a message. Part of the public contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: String,
    pub message: String,
}

impl Failure {
    /// Creates a failure. Both texts may quote untrusted input: control characters become spaces, and long texts are cut.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let cut = |text: String, max| printable(&text).chars().take(max).collect();
        Self { code: cut(code.into(), MAX_CODE), message: cut(message.into(), MAX_MESSAGE) }
    }
}

/// Replaces control characters by spaces. Untrusted text must not control terminals or logs.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
