//! Errors, one variant per stage. An error says what happened to which input; the caller decides what to do about it.

use std::path::PathBuf;

/// Result with [`Error`] as the default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of any stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A video or an image could not be decoded.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// A checkpoint could not be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The description of a model contradicts itself or needs a part that this build lacks.
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    /// The layer plan of a model is not complete.
    #[error("layer plan: {0}")]
    Plan(String),
    /// The tokenizer is malformed or refuses a text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The prompt does not fit the model: media without a marker, too many tokens, an unknown marker.
    #[error("prompt: {0}")]
    Prompt(String),
    /// The request needs more memory than its budget: both are named.
    #[error("budget: {0}")]
    OverBudget(String),
    /// The training cannot begin or continue: the message names the file or the step.
    #[error("training: {0}")]
    Training(String),
    /// The tensor library refused an operation: a bug, a broken device or out of memory.
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Returns the stable code of the error, part of the public contract (`snake_case`, never renamed).
    pub fn code(&self) -> &'static str {
        match self {
            Error::Video(e) => e.code(),
            Error::Weights(_) => "bad_checkpoint",
            Error::Config { .. } => "bad_model_config",
            Error::Plan(_) => "bad_model_config",
            Error::Tokenizer(_) => "bad_tokenizer",
            Error::Prompt(_) => "bad_prompt",
            Error::OverBudget(_) => "over_budget",
            Error::Training(_) => "training_failed",
            Error::Tensor(_) => "model_error",
        }
    }
}

/// Reason why a video did not become frames. Limits state the value found and the value allowed; `path` is the caller's
/// name of the input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: the file is empty")]
    EmptyFile { path: PathBuf },
    /// The first bytes belong to no known image or video container.
    #[error("{path}: not a video or an image: {found}")]
    UnknownContainer { path: PathBuf, found: String },
    /// The first bytes belong to a known format that is refused: it can name other files, or it is not on the list.
    #[error("{path}: this is {found}, which is not an allowed container")]
    ContainerNotAllowed { path: PathBuf, found: String },
    #[error("{path}: codec `{codec}` is not allowed")]
    CodecNotAllowed { path: PathBuf, codec: String },
    #[error("{path}: the file has no video stream")]
    NoVideoStream { path: PathBuf },
    #[error("{path}: the video stream has no frame that decodes")]
    NoFrames { path: PathBuf },
    #[error("{path}: the {container} file cannot be read: {reason}")]
    Malformed { path: PathBuf, container: String, reason: String },
    #[error("{path}: decoding stopped at {at:.3} s: {reason}")]
    Decode { path: PathBuf, at: f64, reason: String },
    #[error("{path}: the file has {found} bytes, {allowed} are allowed")]
    TooManyBytes { path: PathBuf, found: u64, allowed: u64 },
    #[error("{path}: the video lasts at least {found:.3} s, {allowed:.3} s are allowed")]
    TooLong { path: PathBuf, found: f64, allowed: f64 },
    #[error("{path}: a frame of {width}x{height} has more than the {allowed} pixels that are allowed")]
    TooManyPixels { path: PathBuf, width: u32, height: u32, allowed: u64 },
    #[error(
        "{path}: a frame of {width}x{height} has a side of more than the {allowed} pixels that are allowed"
    )]
    TooLongSide { path: PathBuf, width: u32, height: u32, allowed: u32 },
    #[error("{path}: the video has more than {allowed} packets")]
    TooManyPackets { path: PathBuf, allowed: u64 },
    #[error("{path}: {found} frames would have to be decoded, {allowed} are allowed")]
    TooManyDecodedFrames { path: PathBuf, found: u64, allowed: u64 },
    #[error("{path}: the file has more than {allowed} streams")]
    TooManyStreams { path: PathBuf, allowed: u32 },
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// This library was built without the feature `video`, and the input is a video.
    #[error("{path}: this build reads images only")]
    NoVideoSupport { path: PathBuf },
}

impl VideoError {
    /// Returns the stable code of the error, part of the public contract (`snake_case`, never renamed).
    pub fn code(&self) -> &'static str {
        match self {
            VideoError::Io { .. } => "io",
            VideoError::EmptyFile { .. } => "empty_file",
            VideoError::UnknownContainer { .. } => "unknown_container",
            VideoError::ContainerNotAllowed { .. } => "container_not_allowed",
            VideoError::CodecNotAllowed { .. } => "codec_not_allowed",
            VideoError::NoVideoStream { .. } => "no_video_stream",
            VideoError::NoFrames { .. } => "no_frames",
            VideoError::Malformed { .. } => "malformed_video",
            VideoError::Decode { .. } => "decode_failed",
            VideoError::TooManyBytes { .. } => "limit_bytes",
            VideoError::TooLong { .. } => "limit_duration",
            VideoError::TooManyPixels { .. } => "limit_pixels",
            VideoError::TooLongSide { .. } => "limit_side",
            VideoError::TooManyPackets { .. } => "limit_packets",
            VideoError::TooManyDecodedFrames { .. } => "limit_decoded_frames",
            VideoError::TooManyStreams { .. } => "limit_streams",
            VideoError::Sampling(_) => "bad_sampling",
            VideoError::NoVideoSupport { .. } => "no_video_support",
        }
    }
}

/// Invalid frame sampling.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    #[error("frame sampling: fps is {0}, which is not a positive finite number")]
    Fps(f64),
    #[error("frame sampling: start is {0} s, which is not a finite number of seconds from zero on")]
    Start(f64),
    #[error("frame sampling: the range from {start} s to {end} s is empty")]
    Range { start: f64, end: f64 },
    #[error("frame sampling: the number of frames is zero")]
    NoFrames,
    #[error("frame sampling: {0} frames are more than any video has")]
    Count(usize),
    #[error("frame sampling: {fps} frames per second over {span} s ask for more than {allowed} frames")]
    TooMany { fps: f64, span: f64, allowed: u64 },
}

/// Reason why a checkpoint did not become a model. Every message names the tensors or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: not a readable {format} file: {reason}")]
    Malformed { path: PathBuf, format: &'static str, reason: String },
    #[error("{path}: SHA-256 is {found}, expected {expected}")]
    Hash { path: PathBuf, expected: String, found: String },
    #[error("{origin}: tensor `{name}` is missing")]
    Missing { origin: String, name: String },
    #[error("{origin}: tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape { origin: String, name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{origin}: tensor `{name}` cannot be read: {reason}")]
    Unreadable { origin: String, name: String, reason: String },
    #[error("{origin}: several tensors stand for `{name}` and differ")]
    Aliases { origin: String, name: String },
    #[error("{origin}: {} tensors are not part of the model: {}", names.len(), first_names(names))]
    Unused { origin: String, names: Vec<String> },
}

fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
