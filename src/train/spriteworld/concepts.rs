//! Which concepts there are, and what can be wrong with them.

use std::path::PathBuf;

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    #[error("{path}: the file cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: this is not Iconify JSON: {reason}")]
    NotIconify { path: PathBuf, reason: String },
    #[error("{path}: the drawing of `{concept}` is not an SVG body: {reason}")]
    BadDrawing { path: PathBuf, concept: String, reason: String },
    #[error("concept `{concept}` is in none of the icon sets {paths:?}")]
    UnknownConcept { concept: String, paths: Vec<PathBuf> },
    #[error("concept `{concept}` is named twice")]
    ConceptTwice { concept: String },
    #[error("a world needs at least {needed} concepts, there are {found}")]
    TooFewConcepts { needed: usize, found: usize },
    #[error("the configuration of the world has {setting} = {found}, {rule}")]
    Setting { setting: &'static str, found: String, rule: &'static str },
}
