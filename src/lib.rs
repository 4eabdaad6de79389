//! Flamingo (arXiv 2204.14198): from a video file to an answer.
//!
//! A job names a **video** and a **task**; the video is sampled into **frames**, the **vision encoder** turns
//! frames into **visual features**, learned **temporal embeddings** are added, the **Perceiver resampler** turns
//! them into a fixed number of **visual tokens**, the task writes a **prompt** that places media among the text,
//! and the frozen **language model** with tanh-gated cross-attention continues it into an **answer**.
//!
//! The modules are listed in that order, and each uses only those above it. `README.md` has an example.
//!
//! Axis letters, everywhere: b batch · m media · t frames · s patches · q visual tokens per medium ·
//! l text positions · h heads · d width.

#![deny(missing_docs)]

pub mod error;
pub mod atomic_file;
pub mod digest;
pub mod statistics;
pub mod weights;
pub mod kernels;
pub mod video;
pub mod vision;
pub mod language;
pub mod model;
pub mod prompt;
pub mod generate;
pub mod family;
pub mod task;
pub mod few_shot;
pub mod metrics;
pub mod search;
pub mod pipeline;
pub mod stage_trace;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, Result};
pub use pipeline::Pipeline;
pub use task::Task;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
