//! A secret setting.

use flamingo::digest::sha256;
use serde::Deserialize;
use subtle::ConstantTimeEq;

/// A text that is never displayed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Compares with `guess` in constant time.
    pub fn is(&self, guess: &str) -> bool {
        // Compare digests, which have equal lengths.
        bool::from(sha256(self.0.as_bytes()).as_bytes().ct_eq(sha256(guess.as_bytes()).as_bytes()))
    }
}

/// Displays `***`, or nothing if empty.
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
