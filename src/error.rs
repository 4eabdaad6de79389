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
    Config {
        /// File of the description.
        path: PathBuf,
        /// The contradiction or the missing part.
        reason: String,
    },
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
    /// The file cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("{path}: the file is empty")]
    EmptyFile {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
    },
    /// The first bytes belong to no known image or video container.
    #[error("{path}: not a video or an image: {found}")]
    UnknownContainer {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Description of the first bytes.
        found: String,
    },
    /// The first bytes belong to a known format that is refused: it can name other files, or it is not on the list.
    #[error("{path}: this is {found}, which is not an allowed container")]
    ContainerNotAllowed {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Name of the format.
        found: String,
    },
    /// The codec of the video stream is not on the list.
    #[error("{path}: codec `{codec}` is not allowed")]
    CodecNotAllowed {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Name of the codec.
        codec: String,
    },
    /// The container has streams of other kinds only, or none.
    #[error("{path}: the file has no video stream")]
    NoVideoStream {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
    },
    /// No packet of the video stream decodes to a frame.
    #[error("{path}: the video stream has no frame that decodes")]
    NoFrames {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
    },
    /// The container or the image cannot be parsed.
    #[error("{path}: the {container} file cannot be read: {reason}")]
    Malformed {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Name of the container.
        container: String,
        /// Error of the parser.
        reason: String,
    },
    /// A packet cannot be decoded, after others were.
    #[error("{path}: decoding stopped at {at:.3} s: {reason}")]
    Decode {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Time of the packet in seconds after the first frame.
        at: f64,
        /// Error of the decoder.
        reason: String,
    },
    /// The file is larger than the limit.
    #[error("{path}: the file has {found} bytes, {allowed} are allowed")]
    TooManyBytes {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Size of the file in bytes.
        found: u64,
        /// Limit in bytes.
        allowed: u64,
    },
    /// The video is longer than the limit.
    #[error("{path}: the video lasts at least {found:.3} s, {allowed:.3} s are allowed")]
    TooLong {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Duration in seconds, at least.
        found: f64,
        /// Limit in seconds.
        allowed: f64,
    },
    /// A frame has a larger area than the limit.
    #[error("{path}: a frame of {width}x{height} has more than the {allowed} pixels that are allowed")]
    TooManyPixels {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Width of the frame in pixels.
        width: u32,
        /// Height of the frame in pixels.
        height: u32,
        /// Limit in pixels.
        allowed: u64,
    },
    /// A frame is wider or higher than the limit.
    #[error(
        "{path}: a frame of {width}x{height} has a side of more than the {allowed} pixels that are allowed"
    )]
    TooLongSide {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Width of the frame in pixels.
        width: u32,
        /// Height of the frame in pixels.
        height: u32,
        /// Limit of each side in pixels.
        allowed: u32,
    },
    /// The video stream has more packets than the limit.
    #[error("{path}: the video has more than {allowed} packets")]
    TooManyPackets {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Limit of packets.
        allowed: u64,
    },
    /// The sampled frames depend on more frames than the limit.
    #[error("{path}: {found} frames would have to be decoded, {allowed} are allowed")]
    TooManyDecodedFrames {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Number of frames to decode.
        found: u64,
        /// Limit of decoded frames.
        allowed: u64,
    },
    /// The container has more streams than the limit.
    #[error("{path}: the file has more than {allowed} streams")]
    TooManyStreams {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
        /// Limit of streams.
        allowed: u32,
    },
    /// The frame sampling of the request is invalid.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// This library was built without the feature `video`, and the input is a video.
    #[error("{path}: this build reads images only")]
    NoVideoSupport {
        /// Name of the input, as the caller gave it.
        path: PathBuf,
    },
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
    /// The frame rate is not a positive finite number.
    #[error("frame sampling: fps is {0}, which is not a positive finite number")]
    Fps(f64),
    /// The start is negative or not a finite number of seconds.
    #[error("frame sampling: start is {0} s, which is not a finite number of seconds from zero on")]
    Start(f64),
    /// The range ends where it starts, or before.
    #[error("frame sampling: the range from {start} s to {end} s is empty")]
    Range {
        /// Start in seconds.
        start: f64,
        /// End in seconds.
        end: f64,
    },
    /// A fixed number of frames is zero.
    #[error("frame sampling: the number of frames is zero")]
    NoFrames,
    /// A fixed number of frames is larger than the limit.
    #[error("frame sampling: {0} frames are more than any video has")]
    Count(usize),
    /// Rate and range ask for more frames than the limit.
    #[error("frame sampling: {fps} frames per second over {span} s ask for more than {allowed} frames")]
    TooMany {
        /// Frames per second.
        fps: f64,
        /// Length of the range in seconds.
        span: f64,
        /// Limit of frames.
        allowed: u64,
    },
}

/// Reason why a checkpoint did not become a model. Every message names the tensors or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The file is not of the format that its name promises.
    #[error("{path}: not a readable {format} file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Name of the format.
        format: &'static str,
        /// Error of the parser.
        reason: String,
    },
    /// The file has another hash than its description.
    #[error("{path}: SHA-256 is {found}, expected {expected}")]
    Hash {
        /// The file.
        path: PathBuf,
        /// SHA-256 of the description, in hexadecimal.
        expected: String,
        /// SHA-256 of the file, in hexadecimal.
        found: String,
    },
    /// The model needs a tensor that the checkpoint lacks.
    #[error("{origin}: tensor `{name}` is missing")]
    Missing {
        /// Name of the checkpoint.
        origin: String,
        /// Name of the tensor.
        name: String,
    },
    /// A tensor has another shape than the model expects.
    #[error("{origin}: tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the checkpoint.
        origin: String,
        /// Name of the tensor.
        name: String,
        /// Shape that the model expects.
        expected: Vec<usize>,
        /// Shape of the tensor.
        found: Vec<usize>,
    },
    /// The bytes of a tensor cannot be read or converted.
    #[error("{origin}: tensor `{name}` cannot be read: {reason}")]
    Unreadable {
        /// Name of the checkpoint.
        origin: String,
        /// Name of the tensor.
        name: String,
        /// Error of the reader.
        reason: String,
    },
    /// Several tensors stand for one parameter, with different values.
    #[error("{origin}: several tensors stand for `{name}` and differ")]
    Aliases {
        /// Name of the checkpoint.
        origin: String,
        /// Name of the parameter.
        name: String,
    },
    /// The checkpoint has tensors that the model does not use.
    #[error("{origin}: {} tensors are not part of the model: {}", names.len(), first_names(names))]
    Unused {
        /// Name of the checkpoint.
        origin: String,
        /// Names of the tensors.
        names: Vec<String>,
    },
}

fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
