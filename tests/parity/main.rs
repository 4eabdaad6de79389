//! The model against references that we did not write, stage by stage.

mod language;
mod language_cache;
