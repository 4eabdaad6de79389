//! A password among the settings.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::message::sha256;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `guess` is the text, in a time that tells nothing of how much of it is right.
    pub fn is(&self, guess: &str) -> bool {
        // Digests have one length, whatever the texts have.
        bool::from(sha256(self.0.as_bytes()).as_bytes().ct_eq(sha256(guess.as_bytes()).as_bytes()))
    }
}

/// Whether there is one, and no more.
impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "" } else { "***" })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
