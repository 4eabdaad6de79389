//! Bytes -> frames.
//!
//! [`Video::open`] reads what the file is and scans its packets, within [`VideoLimits`]; [`Video::frames`] gives the
//! frames of a [`FrameSampling`], one at a time, bit-equal to those of a full decode but with most of the decoding
//! left out. Images are videos of one frame.
//!
//! ```no_run
//! use flamingo::video::{FrameSampling, Video, VideoLimits};
//! let video = Video::open("clip.mp4", &VideoLimits::default())?;
//! let mut frames = video.frames(&FrameSampling::fps(1.0))?;
//! for frame in &mut frames {
//!     let frame = frame?;
//!     println!("{:.3} s: {} x {}", frame.pts, frame.image.width(), frame.image.height());
//! }
//! println!("{:?}", frames.summary());
//! # Ok::<(), flamingo::error::VideoError>(())
//! ```

mod limits;
mod orientation;
mod sampling;
mod sniff;
mod still;

#[cfg(any(feature = "video", feature = "fuzzing"))]
mod bitstream;
#[cfg(feature = "video")]
mod plan;
#[cfg(feature = "video")]
mod yuv;

#[cfg(feature = "video")]
mod decode;

mod contact_sheet;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

pub use contact_sheet::{ContactSheet, Sheet, contact_sheet};
pub use limits::VideoLimits;
pub use orientation::Orientation;
pub use sampling::{FrameSampling, Picks};

use crate::error::VideoError;

/// One picture of a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Seconds since the first presented frame.
    pub pts: f64,
    /// As it is shown (rotation applied), at its native size.
    pub image: RgbImage,
}

/// What is known of a video once its packets were scanned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// `mov`, `matroska`, `mpegts`, `avi`, or an image format: `png`, `jpeg`, `gif`, `webp`.
    pub container: String,
    /// FFmpeg's name of the codec; for an image the format again.
    pub codec: String,
    /// Pixels, as shown (after rotation), of the first frame.
    pub width: u32,
    pub height: u32,
    /// How the decoded pictures are turned before they are shown.
    pub orientation: Orientation,
    /// Seconds from the first frame to the end of the last one. Zero for an image.
    pub duration: f64,
    /// Frames that are presented, as counted by the scan.
    pub frames: usize,
    /// Frames per second, averaged over the video; zero if it has one frame only.
    pub average_fps: f64,
    /// What the container says is the time of the first presented frame, seconds. May be negative.
    pub start_pts: f64,
}

/// Something about a video that its frames survived. It belongs in the result, beside the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// The file ends or breaks before the video does. `readable_until` is in seconds.
    BrokenTail { readable_until: f64, reason: String },
    /// The container does not say when frames are shown; their times come from decoding everything once.
    MissingPts,
    /// So many packets did not decode.
    DecodeErrors { packets: u64 },
    /// The sampling wanted so many frames more, and nothing at or after their times decoded.
    MissingFrames { frames: usize },
    /// From here on (seconds) everything was decoded, because a frame did not come out as the scan had promised.
    FullDecode { from: f64 },
    /// `max_frames` of the sampling left out so many frames.
    LeftOut { frames: usize },
    /// The first frame with another size than those before it. Frames have the size they have in the video.
    SizeChanged { at: f64, width: u32, height: u32 },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Warning::BrokenTail { readable_until, reason } => {
                write!(f, "the video can be read up to {readable_until:.3} s only: {reason}")
            }
            Warning::MissingPts => {
                f.write_str("the container gives no times for some frames; they were derived")
            }
            Warning::DecodeErrors { packets } => write!(f, "{packets} packets did not decode"),
            Warning::MissingFrames { frames } => write!(f, "{frames} wanted frames did not decode"),
            Warning::FullDecode { from } => write!(f, "from {from:.3} s on every frame had to be decoded"),
            Warning::LeftOut { frames } => write!(f, "{frames} more frames were left out by max_frames"),
            Warning::SizeChanged { at, width, height } => {
                write!(f, "the frame size changes to {width}x{height} at {at:.3} s")
            }
        }
    }
}

/// What a pass over a video's frames did, so far or in whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Frames given out.
    pub picked: u64,
    /// Packets sent to the decoder.
    pub decoded: u64,
    /// Packets that did not need decoding.
    pub skipped: u64,
    pub warnings: Vec<Warning>,
}

/// A video file (or image) that was opened, scanned and found within its limits.
pub struct Video {
    info: VideoInfo,
    content: Content,
}

enum Content {
    Still(Arc<RgbImage>),
    #[cfg(feature = "video")]
    Stream(Box<decode::Stream>),
}

impl Video {
    /// Opens a video or an image by its content; the file's name does not matter.
    ///
    /// # Errors
    /// [`VideoError`]: a limit, a container or codec that is not allowed, a file that is not a video, that has no
    /// video stream or no frame that decodes.
    pub fn open(path: impl AsRef<Path>, limits: &VideoLimits) -> Result<Video, VideoError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| VideoError::Io { path: path.into(), source })?;
        Video::from_file(file, path, limits)
    }

    /// The same for a file that is open already; `name` is used in errors only.
    pub fn from_file(
        file: File,
        name: impl Into<PathBuf>,
        limits: &VideoLimits,
    ) -> Result<Video, VideoError> {
        let path = name.into();
        let (length, head) = head(&file).map_err(|source| VideoError::Io { path: path.clone(), source })?;
        if length == 0 {
            return Err(VideoError::EmptyFile { path });
        }
        if length > limits.max_bytes {
            return Err(VideoError::TooManyBytes { path, found: length, allowed: limits.max_bytes });
        }
        match sniff::sniff(&head) {
            sniff::Kind::Image(format) => {
                let image = still::read(&file, format, &path, limits)?;
                Ok(Video { info: still_info(format, &image), content: Content::Still(Arc::new(image)) })
            }
            sniff::Kind::Video(container) => {
                stream(file, path, container, (length, sniff::promised_length(&head)), limits)
            }
            sniff::Kind::Refused(found) => Err(VideoError::ContainerNotAllowed { path, found: found.into() }),
            sniff::Kind::Unknown(found) => Err(VideoError::UnknownContainer { path, found: found.into() }),
        }
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// The frames of `sampling`, decoded as they are asked for: one picture is in memory at a time.
    ///
    /// # Errors
    /// A sampling that means nothing, or one that needs more decoded frames than the limits allow.
    pub fn frames(&self, sampling: &FrameSampling) -> Result<Frames, VideoError> {
        self.frames_by(sampling, false)
    }

    /// The same frames by decoding everything from the beginning: the reference that [`Video::frames`] is held to.
    pub fn frames_by_full_decode(&self, sampling: &FrameSampling) -> Result<Frames, VideoError> {
        self.frames_by(sampling, true)
    }

    #[cfg_attr(not(feature = "video"), allow(unused_variables))]
    fn frames_by(&self, sampling: &FrameSampling, full: bool) -> Result<Frames, VideoError> {
        let source = match &self.content {
            Content::Still(image) => {
                let picked = !sampling.pick(&[0.0])?.frames.is_empty();
                Source::Still { image: picked.then(|| image.clone()), picked: 0 }
            }
            #[cfg(feature = "video")]
            Content::Stream(stream) => Source::Stream(Box::new(stream.frames(sampling, full)?)),
        };
        Ok(Frames(source))
    }
}

fn head(file: &File) -> std::io::Result<(u64, Vec<u8>)> {
    let mut file = file;
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut head = Vec::new();
    file.take(sniff::HEAD as u64).read_to_end(&mut head)?;
    Ok((length, head))
}

fn still_info(format: image::ImageFormat, image: &RgbImage) -> VideoInfo {
    let name = format!("{format:?}").to_lowercase();
    VideoInfo {
        container: name.clone(),
        codec: name,
        width: image.width(),
        height: image.height(),
        orientation: Orientation::default(),
        duration: 0.0,
        frames: 1,
        average_fps: 0.0,
        start_pts: 0.0,
    }
}

#[cfg(feature = "video")]
fn stream(
    file: File,
    path: PathBuf,
    container: &'static str,
    (length, promised): (u64, Option<u64>),
    limits: &VideoLimits,
) -> Result<Video, VideoError> {
    let source = decode::Source { file: Arc::new(file), length, promised, path, container };
    let (stream, info) = decode::Stream::open(source, limits)?;
    Ok(Video { info, content: Content::Stream(Box::new(stream)) })
}

#[cfg(not(feature = "video"))]
fn stream(
    _: File,
    path: PathBuf,
    _: &'static str,
    _: (u64, Option<u64>),
    _: &VideoLimits,
) -> Result<Video, VideoError> {
    Err(VideoError::NoVideoSupport { path })
}

/// The frames of a sampling, in the order of their pts. Ends after the first error.
pub struct Frames(Source);

enum Source {
    Still {
        image: Option<Arc<RgbImage>>,
        picked: u64,
    },
    #[cfg(feature = "video")]
    Stream(Box<decode::Frames>),
}

impl Frames {
    /// Counts and warnings up to here; complete once the iterator has ended.
    pub fn summary(&self) -> Summary {
        match &self.0 {
            Source::Still { picked, .. } => {
                Summary { picked: *picked, decoded: *picked, ..Summary::default() }
            }
            #[cfg(feature = "video")]
            Source::Stream(frames) => frames.summary(),
        }
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Still { image, picked } => {
                let image = image.take()?;
                *picked += 1;
                Some(Ok(Frame { pts: 0.0, image: Arc::unwrap_or_clone(image) }))
            }
            #[cfg(feature = "video")]
            Source::Stream(frames) => frames.next(),
        }
    }
}
