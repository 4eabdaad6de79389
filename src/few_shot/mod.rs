//! Few-shot examples: support sets, and the choice of the examples that a prompt shows.

mod support;
mod selection;

pub use selection::Selection;
pub use support::{SupportError, SupportExample, SupportSet};
