//! Errors of icon sets, concepts and the configuration of a world.

use std::path::PathBuf;

/// Reason why a world cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// An icon file cannot be read.
    #[error("{path}: the file cannot be read: {source}")]
    Unreadable {
        /// File of the icon set.
        path: PathBuf,
        /// Error of the file system.
        source: std::io::Error,
    },
    /// An icon file has another format.
    #[error("{path}: this is not Iconify JSON: {reason}")]
    NotIconify {
        /// File of the icon set.
        path: PathBuf,
        /// Reason, without a full stop.
        reason: String,
    },
    /// A drawing is not valid SVG, or is empty.
    #[error("{path}: the drawing of `{concept}` is not an SVG body: {reason}")]
    BadDrawing {
        /// File of the icon set.
        path: PathBuf,
        /// Name of the concept.
        concept: String,
        /// Reason, without a full stop.
        reason: String,
    },
    /// No icon set has the concept.
    #[error("concept `{concept}` is in none of the icon sets {paths:?}")]
    UnknownConcept {
        /// Name of the concept.
        concept: String,
        /// Searched icon files.
        paths: Vec<PathBuf>,
    },
    /// The configuration names a concept twice.
    #[error("concept `{concept}` is named twice")]
    ConceptTwice {
        /// Name of the concept.
        concept: String,
    },
    /// There are not enough concepts.
    #[error("a world needs at least {needed} concepts, there are {found}")]
    TooFewConcepts {
        /// Least number of concepts.
        needed: usize,
        /// Number of concepts.
        found: usize,
    },
    /// A setting is invalid.
    #[error("the configuration of the world has {setting} = {found}: {rule}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
}
