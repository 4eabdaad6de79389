//! Few-shot examples: support sets, the choice of the examples that a prompt shows, and classifiers that learn from examples
//! without a prompt.

mod support;
mod selection;
mod question_similarity;
pub mod classifiers;

pub use question_similarity::question_similarities;
pub use selection::{Selection, balanced_order};
pub use support::{SupportError, SupportExample, SupportSet};
