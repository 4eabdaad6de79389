//! Ours against references that we did not write, stage by stage; the scripts that made the goldens stand beside them.

mod adapters;

mod vision;
mod language;
mod language_cache;
mod model;
mod flamingo_whole;
mod text_tower;
