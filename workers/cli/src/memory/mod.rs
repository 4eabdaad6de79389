//! Memory: a plan of what a model needs, from the headers of its files, and what is available.

pub mod available;
pub mod headers;
pub mod plan;
