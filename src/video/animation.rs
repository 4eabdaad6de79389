//! Animated GIF, PNG and WebP files as videos. The file is decoded from its first frame on, and only the frames of a
//! sampling are kept.

pub(super) mod timeline;

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageResult, RgbImage, Rgba};

use self::timeline::timeline;
use super::reader::Reader;
use super::sampling::{SelectedFrame, VideoTimes};
use super::{Frame, FrameSampling, Summary, VideoInfo, VideoLimits, Warning, alpha, still};
use crate::error::VideoError;

/// Kind of an image file.
pub(super) enum Kind {
    Animation(Box<Animation>, Box<VideoInfo>),
    /// One frame can be decoded. The warnings tell what else is in the file.
    Still(Vec<Warning>),
}

/// An animation whose times are known. It can be sampled any number of times, also concurrently.
pub(super) struct Animation {
    file: AnimationFile,
    limits: VideoLimits,
    /// Seconds since the first frame, one for each frame.
    times: Arc<[f64]>,
    /// End of the last frame, in seconds.
    end: f64,
    /// Median time that a frame stays, in seconds.
    interval: f64,
    warnings: Vec<Warning>,
}

#[derive(Clone)]
struct AnimationFile {
    file: Arc<File>,
    length: u64,
    format: ImageFormat,
    path: PathBuf,
}

/// Reads the times of an image file, and checks them against the limits.
pub(super) fn open(
    file: &Arc<File>,
    (format, length): (ImageFormat, u64),
    path: &Path,
    limits: &VideoLimits,
) -> Result<Kind, VideoError> {
    let found = timeline(format, Reader::new(file.clone(), length), length, limits.max_packets);
    let count = found.delays.len();
    if count as u64 > limits.max_packets {
        return Err(VideoError::TooManyPackets { path: path.into(), allowed: limits.max_packets });
    }
    if count > 1 && found.unsupported {
        return Ok(Kind::Still(vec![Warning::AnimationIgnored { frames: count - 1 }]));
    }
    let (times, duration) = times(&found.delays);
    let mut warnings = Vec::new();
    if found.cut {
        let reason = "the file ends within a frame".into();
        warnings.push(Warning::BrokenTail { readable_until: duration, reason });
    }
    if count < 2 {
        return Ok(Kind::Still(if count == 1 { warnings } else { Vec::new() }));
    }
    if duration > limits.max_duration_s {
        let (path, allowed) = (path.into(), limits.max_duration_s);
        return Err(VideoError::TooLong { path, found: duration, allowed });
    }
    let file = AnimationFile { file: file.clone(), length, format, path: path.into() };
    let info = info(format, file.decode(limits)?.shown_size(), &times, duration);
    let mut delays = found.delays;
    delays.pop();
    let (_, median, _) = delays.select_nth_unstable(count.saturating_sub(1) / 2);
    let (interval, times) = (*median as f64 / 1e6, times.into());
    let animation = Animation { file, limits: limits.clone(), times, end: duration, interval, warnings };
    Ok(Kind::Animation(Box::new(animation), Box::new(info)))
}

/// Begin of each frame and end of the last one, in seconds.
fn times(delays: &[u64]) -> (Vec<f64>, f64) {
    let seconds = |microseconds: u64| microseconds as f64 / 1e6;
    let ends = delays.iter().scan(0, |end, delay| {
        *end += delay;
        Some(*end)
    });
    let mut times: Vec<f64> = std::iter::once(0).chain(ends).map(seconds).collect();
    let end = times.pop().unwrap_or(0.0);
    (times, end)
}

fn info(format: ImageFormat, (width, height): (u32, u32), times: &[f64], duration: f64) -> VideoInfo {
    let (frames, span) = (times.len(), times[times.len() - 1]);
    let info = still::info(format, width, height);
    VideoInfo { duration, frames, average_fps: (frames - 1) as f64 / span, ..info }
}

impl Animation {
    pub(super) fn frames(&self, sampling: &FrameSampling) -> Result<Frames, VideoError> {
        let times = VideoTimes { frames: &self.times, end: self.end, interval: self.interval, tick: 0.0 };
        let selection = sampling.select(&times)?;
        let decoded = selection.frames.last().map_or(0, |last| last.index as u64 + 1);
        if decoded > self.limits.max_decoded_frames {
            let (path, allowed) = (self.file.path.clone(), self.limits.max_decoded_frames);
            return Err(VideoError::TooManyDecodedFrames { path, found: decoded, allowed });
        }
        let mut warnings = self.warnings.clone();
        if selection.left_out > 0 {
            warnings.push(Warning::LeftOut { frames: selection.left_out });
        }
        Ok(Frames {
            pictures: self.file.decode_in_thread(&self.limits, &selection.frames)?,
            wanted: selection.frames.into(),
            times: self.times.clone(),
            picked: 0,
            decoded: 0,
            failed: false,
            warnings,
        })
    }
}

/// Decoder of an animation.
struct Pictures {
    frames: image::Frames<'static>,
    size: (u32, u32),
    /// EXIF orientation of all pictures.
    orientation: Orientation,
}

impl Pictures {
    fn new<D: ImageDecoder, A: AnimationDecoder<'static>>(
        mut decoder: D,
        limits: &VideoLimits,
        animation: impl FnOnce(D) -> ImageResult<A>,
    ) -> ImageResult<Self> {
        decoder.set_limits(still::allocation(limits))?;
        let (size, orientation) = (decoder.dimensions(), decoder.orientation()?);
        Ok(Pictures { frames: animation(decoder)?.into_frames(), size, orientation })
    }

    fn shown_size(&self) -> (u32, u32) {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = self.size;
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }

    fn next(&mut self) -> Option<DynamicImage> {
        // The decoder cannot go on after an error: each frame depends on the one before.
        let mut image = DynamicImage::ImageRgba8(self.frames.next()?.ok()?.into_buffer());
        image.apply_orientation(self.orientation);
        Some(image)
    }
}

impl AnimationFile {
    /// Starts decoding at the first frame.
    fn decode(&self, limits: &VideoLimits) -> Result<Pictures, VideoError> {
        let reader = BufReader::new(Reader::new(self.file.clone(), self.length));
        let pictures = match self.format {
            ImageFormat::Gif => GifDecoder::new(reader).and_then(|gif| Pictures::new(gif, limits, Ok)),
            ImageFormat::WebP => WebPDecoder::new(reader).and_then(|mut webp| {
                // Without a colour, the decoder does not clear what a frame disposes of.
                webp.set_background_color(Rgba([0; 4]))?;
                Pictures::new(webp, limits, Ok)
            }),
            _ => PngDecoder::new(reader).and_then(|png| Pictures::new(png, limits, PngDecoder::apng)),
        };
        let pictures = pictures.map_err(|e| still::malformed(self.format, &self.path, e.to_string()))?;
        let (width, height) = pictures.size;
        limits.check_pixels(&self.path, width, height)?;
        Ok(pictures)
    }
}

impl AnimationFile {
    /// Decodes in a thread, because the decoders of `image` cannot move between threads. At most one picture waits.
    fn decode_in_thread(
        &self,
        limits: &VideoLimits,
        wanted: &[SelectedFrame],
    ) -> Result<Receiver<RgbImage>, VideoError> {
        let (sender, receiver) = mpsc::sync_channel(0);
        let (file, limits) = (self.clone(), limits.clone());
        let mut wanted: VecDeque<usize> = wanted.iter().map(|frame| frame.index).collect();
        let decode = move || {
            let Ok(mut pictures) = file.decode(&limits) else { return };
            for index in 0.. {
                let (Some(next), Some(image)) = (wanted.front(), pictures.next()) else { return };
                if *next == index {
                    wanted.pop_front();
                    // The receiver is gone if no more frames are needed.
                    if sender.send(alpha::on_white(image)).is_err() {
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("animation".into()).spawn(decode);
        thread.map_err(|source| VideoError::Io { path: self.path.clone(), source })?;
        Ok(receiver)
    }
}

/// Iterator state for the frames of one sampling.
pub(super) struct Frames {
    /// The selected frames, in order; closed after the last one and after an error.
    pictures: Receiver<RgbImage>,
    /// Selected frames that are not decoded yet, ascending.
    wanted: VecDeque<SelectedFrame>,
    /// Times of all frames.
    times: Arc<[f64]>,
    picked: u64,
    /// Frames up to the last one returned.
    decoded: usize,
    /// A frame after the decoded ones cannot be decoded.
    failed: bool,
    warnings: Vec<Warning>,
}

impl Frames {
    pub(super) fn next(&mut self) -> Option<Frame> {
        if self.wanted.is_empty() || self.failed {
            return None;
        }
        let Ok(image) = self.pictures.recv() else {
            self.failed = true;
            return None;
        };
        let SelectedFrame { index, moments } = self.wanted.pop_front()?;
        (self.picked, self.decoded) = (self.picked + 1, index + 1);
        Some(Frame { pts: self.times[index], moments, image })
    }

    pub(super) fn summary(&self) -> Summary {
        let mut warnings = self.warnings.clone();
        if self.failed {
            warnings.push(Warning::DecodeErrors { packets: 1 });
            let moments = self.wanted.iter().map(|wanted| wanted.moments.len());
            warnings.push(Warning::MissingFrames { frames: moments.sum() });
        }
        let decoded = self.decoded as u64;
        Summary { picked: self.picked, decoded, skipped: self.times.len() as u64 - decoded, warnings }
    }
}
