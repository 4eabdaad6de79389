//! Decoding in a child process: no video bytes are parsed in a process with credentials, sockets or a loaded model.
//!
//! The parent opens the file and passes it to the child as standard input. The child is the same binary under a hidden
//! subcommand. It drops every right that decoding does not need ([`Confinement`]), decodes, and writes messages to standard
//! output. Its environment is empty. A child that crashes or exceeds a deadline is an error of that video only.

use std::path::{Path, PathBuf};

use flamingo::video::{FrameSampling, VideoLimits};
use serde::{Deserialize, Serialize};

mod child;
mod client;
mod protocol;
mod sandbox;
mod watchdog;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use child::serve;
pub use client::{DecodedFrames, confinement, decode};
pub use sandbox::Confinement;

/// The hidden subcommand under which a binary calls [`serve`].
pub const SUBCOMMAND: &str = "decode-frames";

/// Request to the child, passed as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeRequest {
    /// Name of the input in errors; the child never opens it.
    #[serde(serialize_with = "readable_path")]
    pub name: PathBuf,
    pub sampling: FrameSampling,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
}

/// Configuration of decoding: the program, and its limits.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// The binary with the hidden subcommand [`SUBCOMMAND`].
    pub program: PathBuf,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
}

impl DecoderConfig {
    /// Returns the configuration of `program` with the default limits.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), limits: VideoLimits::default(), process: ProcessLimits::default() }
    }
}

/// Serializes a path with replacement characters: JSON is Unicode and file names need not be.
fn readable_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl DecodeRequest {
    /// Returns a request with the default limits.
    pub fn new(name: impl Into<PathBuf>, sampling: FrameSampling) -> Self {
        Self {
            name: name.into(),
            sampling,
            limits: VideoLimits::default(),
            process: ProcessLimits::default(),
        }
    }
}

/// Resource limits of the child process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessLimits {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_s: u64,
    /// Seconds until the next message (frame or file info). Time in which the parent does not read, because the model is
    /// busy, does not count.
    pub silence_s: u64,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { memory: 4 << 30, cpu_s: 3600, silence_s: 600 }
    }
}

/// Error of decoding in the child.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The file cannot be opened, or no child can be started.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// Error of the decoder: a [`VideoError`](flamingo::error::VideoError) with its code.
    #[error("{message}")]
    Video { code: String, message: String },
    /// The child failed before it read the file: the fault lies with this machine.
    #[error("the decoder cannot be started: {how}")]
    NotStarted { how: String },
    #[error("{path}: the decoder crashed ({how})")]
    Crashed { path: PathBuf, how: String },
    /// Killed by SIGKILL from outside: the kernel kills the largest process when memory runs out.
    #[error("{path}: the decoder was killed (SIGKILL, as by the kernel out of memory)")]
    Killed { path: PathBuf },
    #[error("{path}: the decoder sent nothing for longer than the allowed {allowed} s")]
    Deadline { path: PathBuf, allowed: u64 },
}

impl DecoderError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            DecoderError::Io { .. } => "io",
            DecoderError::Video { code, .. } => code,
            DecoderError::NotStarted { .. } => "decoder_not_started",
            DecoderError::Crashed { .. } => "decoder_crashed",
            DecoderError::Killed { .. } => "decoder_killed",
            DecoderError::Deadline { .. } => "decoder_deadline",
        }
    }
}
