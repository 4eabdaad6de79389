//! Bytes -> frames.
//!
//! [`Video::open`] detects the format of the file and scans its packets, within [`VideoLimits`].
//! [`Video::frames`] gives the frames of a [`FrameSampling`], one at a time, each with the moments at which a
//! player shows it. They are bit-equal to those of a full decode, but most packets are never decoded. Images are
//! videos of one frame.
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
mod alpha;
mod reader;
mod still;
mod warning;
mod animation;
mod avif;

#[cfg(any(feature = "video", feature = "fuzzing"))]
mod bitstream;
#[cfg(feature = "video")]
mod plan;
#[cfg(any(feature = "video", feature = "fuzzing"))]
mod times;
#[cfg(feature = "video")]
mod stretch;
#[cfg(feature = "video")]
mod tone;
#[cfg(feature = "video")]
mod yuv;
#[cfg(feature = "video")]
mod deep;

#[cfg(feature = "video")]
mod decode;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};

use animation::{Animation, Kind};
pub use limits::VideoLimits;
pub use orientation::Orientation;
pub use sampling::{FrameSampling, FrameSelection, Moments, SAMPLING_CONTRACT, SelectedFrame, VideoTimes};
pub use warning::Warning;

use crate::error::VideoError;

/// A decoded picture of a video with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Seconds since the first presented frame.
    pub pts: f64,
    /// The sampled moments at which a player shows the picture.
    pub moments: Moments,
    /// The pixels as a player shows them (`docs/inputs.md`), at their native size.
    pub image: RgbImage,
}

impl Frame {
    /// Creates a picture that is shown at one moment, its own time.
    pub fn at(pts: f64, image: RgbImage) -> Self {
        Frame { pts, moments: Moments::at(pts), image }
    }
}

/// Facts about a video that the packet scan found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// FFmpeg's name of the demuxer: `mov`, `matroska`, `mpegts`, `mpeg`, `avi`, `asf`, `flv`, `ogg`, `mjpeg` (a motion
    /// JPEG without a container), or an image format: `png`, `jpeg`, `gif`, `webp`, `bmp`, `tiff`, `avif`.
    pub container: String,
    /// FFmpeg's name of the codec; for an image the format again.
    pub codec: String,
    /// Width of the first frame as it is shown (with square pixels, after rotation), in pixels.
    pub width: u32,
    /// Height of the first frame as it is shown, in pixels.
    pub height: u32,
    /// Rotation and mirroring from a decoded picture to the picture that a player shows.
    pub orientation: Orientation,
    /// Seconds from the start of the first frame to the end of the last one, which is its duration, or the median
    /// distance of two frames if the container gives none. Zero for an image.
    pub duration: f64,
    /// Number of presented frames, as counted by the scan.
    pub frames: usize,
    /// Frames per second, averaged over the video; zero if it has one frame only.
    pub average_fps: f64,
    /// Time of the first presented frame according to the container, in seconds. May be negative.
    pub start_pts: f64,
    /// FFmpeg's name of the transfer function, if the video names one: `bt709`, or `smpte2084` (PQ) and
    /// `arib-std-b67` (HLG), which are converted to BT.709.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<String>,
}

/// Counts and warnings of one pass over the frames of a video.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Pictures returned, each once.
    pub picked: u64,
    /// Packets sent to the decoder.
    pub decoded: u64,
    /// Packets that did not need decoding.
    pub skipped: u64,
    /// Warnings of the scan and of this pass.
    pub warnings: Vec<Warning>,
}

/// A video file or image that was opened, scanned and checked against its limits.
pub struct Video {
    info: VideoInfo,
    media: VideoMedia,
}

enum VideoMedia {
    Still {
        image: Arc<RgbImage>,
        warnings: Vec<Warning>,
    },
    Animation(Box<Animation>),
    #[cfg(feature = "video")]
    Stream(Box<decode::Stream>),
}

impl Video {
    /// Opens a video or an image by its first bytes. The file name does not matter.
    ///
    /// # Errors
    /// [`VideoError`]: the file exceeds a limit, has a container or codec that is not allowed, is not a
    /// video, has no video stream, or has no frame that decodes.
    pub fn open(path: impl AsRef<Path>, limits: &VideoLimits) -> Result<Video, VideoError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| VideoError::Io { path: path.into(), source })?;
        Video::from_file(file, path, limits)
    }

    /// Opens a video from a file that is already open. `name` appears in errors only.
    ///
    /// # Errors
    /// As [`Video::open`].
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
        let file = Arc::new(file);
        match sniff::sniff(&head) {
            sniff::FileKind::Image(ImageFormat::Avif) => avif::read(file, path, (length, &head), limits),
            sniff::FileKind::Image(ImageFormat::Jpeg) if still::is_motion_jpeg(&file) => {
                stream(file, path, "mjpeg", (length, None), limits)
            }
            sniff::FileKind::Image(format) => {
                match animation::open(&file, (format, length), &path, limits)? {
                    Kind::Animation(animation, info) => {
                        Ok(Video { info: *info, media: VideoMedia::Animation(animation) })
                    }
                    Kind::Still(warnings) => {
                        Ok(Video::still(format, still::read(&file, format, &path, limits)?, warnings))
                    }
                }
            }
            sniff::FileKind::Video(container) => {
                stream(file, path, container, (length, sniff::declared_length(&head, length)), limits)
            }
            sniff::FileKind::Refused(found) => {
                Err(VideoError::ContainerNotAllowed { path, found: found.into() })
            }
            sniff::FileKind::Unknown(found) => {
                Err(VideoError::UnknownContainer { path, found: found.into() })
            }
        }
    }

    fn still(format: ImageFormat, image: RgbImage, warnings: Vec<Warning>) -> Video {
        let info = still::info(format, image.width(), image.height());
        Video { info, media: VideoMedia::Still { image: Arc::new(image), warnings } }
    }

    /// Facts about the video from the packet scan.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Returns the frames of `sampling`. Each is decoded when the iterator reaches it, so one picture is in
    /// memory at a time.
    ///
    /// # Errors
    /// The sampling is invalid, or it needs more decoded frames than the limits allow.
    pub fn frames(&self, sampling: &FrameSampling) -> Result<Frames, VideoError> {
        self.frames_by(sampling, false)
    }

    /// Returns the frames of `sampling` by decoding every packet from the beginning: the reference for
    /// [`Video::frames`].
    ///
    /// # Errors
    /// As [`Video::frames`].
    pub fn frames_by_full_decode(&self, sampling: &FrameSampling) -> Result<Frames, VideoError> {
        self.frames_by(sampling, true)
    }

    #[cfg_attr(not(feature = "video"), allow(unused_variables))]
    fn frames_by(&self, sampling: &FrameSampling, full: bool) -> Result<Frames, VideoError> {
        let source = match &self.media {
            VideoMedia::Still { image, warnings } => {
                let times = VideoTimes { frames: &[0.0], end: 0.0, interval: 0.0, tick: 0.0 };
                let selected = !sampling.select(&times)?.frames.is_empty();
                let image = selected.then(|| image.clone());
                FrameSource::Still { image, returned: 0, warnings: warnings.clone() }
            }
            VideoMedia::Animation(animation) => FrameSource::Animation(Box::new(animation.frames(sampling)?)),
            #[cfg(feature = "video")]
            VideoMedia::Stream(stream) => FrameSource::Stream(Box::new(stream.frames(sampling, full)?)),
        };
        Ok(Frames(source))
    }
}

fn head(file: &File) -> std::io::Result<(u64, Vec<u8>)> {
    let mut file = file;
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut head = Vec::new();
    file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((length, head))
}

#[cfg(feature = "video")]
fn stream(
    file: Arc<File>,
    path: PathBuf,
    container: &'static str,
    (length, declared_length): (u64, Option<u64>),
    limits: &VideoLimits,
) -> Result<Video, VideoError> {
    let source = decode::SourceFile { file, length, declared_length, path, container };
    let (stream, info) = decode::Stream::open(source, limits)?;
    Ok(Video { info, media: VideoMedia::Stream(Box::new(stream)) })
}

#[cfg(not(feature = "video"))]
fn stream(
    _: Arc<File>,
    path: PathBuf,
    _: &'static str,
    _: (u64, Option<u64>),
    _: &VideoLimits,
) -> Result<Video, VideoError> {
    Err(VideoError::NoVideoSupport { path })
}

/// Iterator over the frames of a sampling, in the order of their pts. It ends after the first error.
pub struct Frames(FrameSource);

enum FrameSource {
    Still {
        image: Option<Arc<RgbImage>>,
        returned: u64,
        warnings: Vec<Warning>,
    },
    Animation(Box<animation::Frames>),
    #[cfg(feature = "video")]
    Stream(Box<decode::Frames>),
}

impl Frames {
    /// Counts and warnings so far. They are complete after the iterator has ended.
    pub fn summary(&self) -> Summary {
        match &self.0 {
            FrameSource::Still { returned, warnings, .. } => Summary {
                picked: *returned,
                decoded: *returned,
                warnings: warnings.clone(),
                ..Summary::default()
            },
            FrameSource::Animation(frames) => frames.summary(),
            #[cfg(feature = "video")]
            FrameSource::Stream(frames) => frames.summary(),
        }
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            FrameSource::Still { image, returned, .. } => {
                let image = image.take()?;
                *returned += 1;
                Some(Ok(Frame::at(0.0, Arc::unwrap_or_clone(image))))
            }
            FrameSource::Animation(frames) => frames.next().map(Ok),
            #[cfg(feature = "video")]
            FrameSource::Stream(frames) => frames.next(),
        }
    }
}
