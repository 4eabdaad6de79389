//! Packets -> the frames of a sampling. FFmpeg is called only here and in the folder below.
//!
//! The scan (`scan.rs`) knows the time of every frame, so the sampling selects frames before any decoding,
//! and the plan (`plan.rs`) lists the packets that they need. If the decoder does not return a predicted
//! frame, every packet from the GOP before that segment on is decoded, and the moments of a frame that does not
//! decode get the frame before it, which a player still shows.

mod open;
mod deinterlace;
mod clock;
mod convert;
mod scan;

use std::collections::VecDeque;
use std::sync::Arc;

use ffmpeg::{Packet, frame};
use ffmpeg_next as ffmpeg;

use self::clock::FrameClock;
use self::convert::Converter;
pub(super) use self::open::SourceFile;
use self::open::{Demuxer, StreamHeader};
use self::scan::{PresentedFrame, Scan};
use super::plan::{self, Plan};
use super::sampling::{Moments, VideoTimes};
use super::{Frame, FrameSampling, Summary, VideoInfo, VideoLimits, Warning};
use crate::error::VideoError;

/// Ticks -> seconds.
fn seconds(ticks: i64, (numerator, denominator): (i64, i64)) -> f64 {
    // A single rounding: times and targets that are equal as fractions stay equal.
    (i128::from(ticks) * i128::from(numerator)) as f64 / denominator as f64
}

/// A scanned video. It can be sampled any number of times, also concurrently.
pub(super) struct Stream {
    source: SourceFile,
    limits: VideoLimits,
    header: StreamHeader,
    scan: Arc<Scan>,
    /// Times of `scan.presented`, in seconds since the first frame.
    times: Vec<f64>,
}

impl Stream {
    pub(super) fn open(source: SourceFile, limits: &VideoLimits) -> Result<(Self, VideoInfo), VideoError> {
        let (header, scan) = scan::scan(&source, limits)?;
        let first_pts = scan.presented[0].pts;
        let time = |frame: &PresentedFrame| seconds(frame.pts.saturating_sub(first_pts), header.time_base);
        let times: Vec<f64> = scan.presented.iter().map(time).collect();
        let info = info(&source, &header, &scan, &times);
        Ok((Stream { source, limits: limits.clone(), header, scan: Arc::new(scan), times }, info))
    }

    /// Times of all frames, in seconds since the first one.
    fn times(&self) -> VideoTimes<'_> {
        let time_base = self.header.time_base;
        let last = self.times[self.times.len() - 1];
        VideoTimes {
            frames: &self.times,
            end: last + seconds(self.scan.duration, time_base),
            interval: seconds(self.scan.interval, time_base),
            tick: seconds(1, time_base),
        }
    }

    pub(super) fn frames(&self, sampling: &FrameSampling, full: bool) -> Result<Frames, VideoError> {
        let selection = sampling.select(&self.times())?;
        let presented = |index: usize| self.scan.presented[index];
        let packets: Vec<usize> = selection.frames.iter().map(|f| presented(f.index).packet).collect();
        let full = full || self.scan.derived;
        let plan = if full { Plan::default() } else { plan::plan(&self.scan.packets, &packets) };
        let decoded = if full { self.scan.packets.len() } else { plan.packets_to_send() } as u64;
        if decoded > self.limits.max_decoded_frames {
            return Err(VideoError::TooManyDecodedFrames {
                path: self.source.path.clone(),
                found: decoded,
                allowed: self.limits.max_decoded_frames,
            });
        }
        let demuxer = Demuxer::open(&self.source, &self.limits)?.0.with_shifts(&self.scan.shifts);
        let decoder = VideoDecoder::new(&demuxer, &self.source, &self.limits)?;
        let mut warnings = self.scan.warnings.clone();
        if selection.left_out > 0 {
            warnings.push(Warning::LeftOut { frames: selection.left_out });
        }
        let wanted = selection.frames.into_iter();
        Ok(Frames {
            source: self.source.clone(),
            limits: self.limits.clone(),
            time_base: self.header.time_base,
            first_pts: self.scan.presented[0].pts,
            scan: self.scan.clone(),
            demuxer,
            decoder,
            converter: Converter::new(&self.header),
            clock: FrameClock { derived: self.scan.derived, last: None },
            wanted: wanted.map(|f| WantedFrame { pts: presented(f.index).pts, moments: f.moments }).collect(),
            held: None,
            converted: 0,
            plan,
            mode: if full { Mode::Full } else { Mode::Planned { segment: 0 } },
            at: 0,
            ready: VecDeque::new(),
            size: None,
            sent: 0,
            done: false,
            warnings,
        })
    }
}

fn info(source: &SourceFile, header: &StreamHeader, scan: &Scan, times: &[f64]) -> VideoInfo {
    let (mut width, mut height) = scan.size;
    if header.orientation.swaps_sides() {
        (width, height) = (height, width);
    }
    let (frames, span) = (times.len(), times[times.len() - 1]);
    let average_fps = if span > 0.0 { (frames - 1) as f64 / span } else { 0.0 };
    VideoInfo {
        container: source.container.into(),
        codec: header.codec.into(),
        width,
        height,
        orientation: header.orientation,
        duration: span + seconds(scan.duration, header.time_base),
        frames,
        average_fps,
        start_pts: seconds(scan.presented[0].pts, header.time_base),
        transfer: header.transfer.map(str::to_owned),
    }
}

struct VideoDecoder {
    video: ffmpeg::decoder::Video,
    /// Packets that the decoder refused.
    errors: u64,
}

impl VideoDecoder {
    fn new(demuxer: &Demuxer, source: &SourceFile, limits: &VideoLimits) -> Result<Self, VideoError> {
        let video = demuxer.decoder(limits).map_err(|e| VideoError::Decode {
            path: source.path.clone(),
            at: 0.0,
            reason: e.to_string(),
        })?;
        Ok(VideoDecoder { video, errors: 0 })
    }

    /// Sends a packet; `None` drains the frames that the decoder still holds. A packet that does not decode
    /// is only counted, because the frames around it are still useful.
    fn send(&mut self, packet: Option<&Packet>) {
        let result = match packet {
            Some(packet) => self.video.send_packet(packet),
            None => self.video.send_eof(),
        };
        if result.is_err_and(|e| e != ffmpeg::Error::Eof) {
            self.errors += 1;
        }
    }

    fn receive(&mut self, picture: &mut frame::Video) -> bool {
        loop {
            match self.video.receive_frame(picture) {
                Ok(()) => return true,
                Err(ffmpeg::Error::Eof | ffmpeg::Error::Other { errno: ffmpeg::ffi::EAGAIN }) => {
                    return false;
                }
                // Each of these errors belongs to one sent packet, so the loop ends.
                Err(_) => self.errors += 1,
            }
        }
    }
}

enum Mode {
    /// Decodes the segment of this index of the plan.
    Planned { segment: usize },
    /// Decodes every packet from here on.
    Full,
}

/// A selected frame that is not decoded yet.
struct WantedFrame {
    pts: i64,
    moments: Moments,
}

/// Iterator state for the frames of one sampling.
pub(super) struct Frames {
    source: SourceFile,
    limits: VideoLimits,
    time_base: (i64, i64),
    /// pts of the first presented frame.
    first_pts: i64,
    scan: Arc<Scan>,
    demuxer: Demuxer,
    decoder: VideoDecoder,
    converter: Converter,
    clock: FrameClock,
    /// Ascending by pts.
    wanted: VecDeque<WantedFrame>,
    /// The last decoded picture and its pts, if every packet is decoded.
    held: Option<(frame::Video, i64)>,
    /// Frames converted so far, those in `ready` included.
    converted: usize,
    plan: Plan,
    mode: Mode,
    /// Index of the packet that `demuxer` returns next.
    at: usize,
    ready: VecDeque<Frame>,
    size: Option<(u32, u32)>,
    sent: u64,
    done: bool,
    warnings: Vec<Warning>,
}

/// The decoder returned a frame that the plan did not expect, or did not return one that it expected.
struct Mismatch;

impl Frames {
    pub(super) fn next(&mut self) -> Option<Result<Frame, VideoError>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(Ok(frame));
            }
            if self.done || self.wanted.is_empty() {
                return None;
            }
            if let Err(e) = self.step() {
                self.done = true;
                return Some(Err(e));
            }
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let mut warnings = self.warnings.clone();
        if self.decoder.errors > 0 {
            warnings.push(Warning::DecodeErrors { packets: self.decoder.errors });
        }
        if self.converter.damaged > 0 {
            warnings.push(Warning::DamagedFrames { frames: self.converter.damaged });
        }
        if self.done && !self.wanted.is_empty() {
            let moments = self.wanted.iter().map(|wanted| wanted.moments.len());
            warnings.push(Warning::MissingFrames { frames: moments.sum() });
        }
        Summary {
            picked: (self.converted - self.ready.len()) as u64,
            decoded: self.sent,
            skipped: (self.scan.packets.len() as u64).saturating_sub(self.sent),
            warnings,
        }
    }

    /// Processes one packet.
    fn step(&mut self) -> Result<(), VideoError> {
        let segment = match self.mode {
            Mode::Full => return self.step_full(),
            Mode::Planned { segment } => segment,
        };
        let Some(current) = self.plan.segments.get(segment).cloned() else {
            self.done = true;
            return Ok(());
        };
        let packet = self.demuxer.next();
        let index = self.at;
        self.at += 1;
        let mut outcome = Ok(());
        if let Some(packet) = packet.as_ref().filter(|_| index >= current.first && self.plan.send[index]) {
            outcome = self.send(Some(packet))?;
        }
        // A demuxer that ends early is also a mismatch: the drained segment lacks frames.
        if outcome.is_ok() && (packet.is_none() || index >= current.last) {
            outcome = self.send(None)?;
            if self.converted < current.wanted_until {
                outcome = Err(Mismatch);
            }
            self.decoder.video.flush();
            self.mode = Mode::Planned { segment: segment + 1 };
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Mismatch) => self.decode_in_full_from(current.first),
        }
    }

    fn step_full(&mut self) -> Result<(), VideoError> {
        let packet = self.demuxer.next();
        self.at += 1;
        let ended = packet.is_none();
        // In this mode no frame is a mismatch.
        let _ = self.send(packet.as_ref())?;
        self.done = ended;
        Ok(())
    }

    fn decode_in_full_from(&mut self, index: usize) -> Result<(), VideoError> {
        let from = self
            .wanted
            .front()
            .map_or(0.0, |wanted| seconds(wanted.pts.saturating_sub(self.first_pts), self.time_base));
        self.warnings.push(Warning::FullDecode { from });
        // The frame before the segment is on the screen until the first one of the segment that decodes.
        let restart = |i: &usize| self.scan.packets[*i].properties.random_access;
        let start = (0..index).rev().find(restart).unwrap_or(0);
        self.demuxer = Demuxer::open(&self.source, &self.limits)?.0.with_shifts(&self.scan.shifts);
        self.at = 0;
        while self.at < start && self.demuxer.next().is_some() {
            self.at += 1;
        }
        self.decoder.video.flush();
        self.mode = Mode::Full;
        Ok(())
    }

    /// Sends a packet, or `None` to drain, and converts the selected frames among those that the decoder
    /// returns.
    fn send(&mut self, packet: Option<&Packet>) -> Result<Result<(), Mismatch>, VideoError> {
        if packet.is_some() {
            self.sent += 1;
            // After a mismatch more packets are sent than planned. The limit applies to the whole pass.
            if self.sent > self.limits.max_decoded_frames {
                return Err(VideoError::TooManyDecodedFrames {
                    path: self.source.path.clone(),
                    found: self.sent,
                    allowed: self.limits.max_decoded_frames,
                });
            }
        }
        self.decoder.send(packet);
        let mut picture = frame::Video::empty();
        while self.decoder.receive(&mut picture) {
            let pts = self.clock.tick(&picture);
            if matches!(self.mode, Mode::Full) {
                self.show_held(&picture, pts)?;
            } else if self.wanted.front().is_some_and(|wanted| wanted.pts < pts) {
                return Ok(Err(Mismatch));
            }
            if self.wanted.front().is_some_and(|wanted| wanted.pts == pts)
                && let Some(WantedFrame { moments, .. }) = self.wanted.pop_front()
            {
                self.push_frame(&picture, pts, moments)?;
            }
            if matches!(self.mode, Mode::Full) {
                let free = self.held.take().map_or_else(frame::Video::empty, |(held, _)| held);
                self.held = Some((std::mem::replace(&mut picture, free), pts));
            }
        }
        Ok(Ok(()))
    }

    /// Gives the moments of frames that did not decode to the picture before `next`, which has the time `pts`. If there
    /// is none, `next` is the first that decodes.
    fn show_held(&mut self, next: &frame::Video, pts: i64) -> Result<(), VideoError> {
        let held = self.held.take();
        while self.wanted.front().is_some_and(|wanted| wanted.pts < pts) {
            let Some(WantedFrame { moments, .. }) = self.wanted.pop_front() else { break };
            match &held {
                Some((picture, pts)) => self.push_frame(picture, *pts, moments)?,
                None => self.push_frame(next, pts, moments)?,
            }
        }
        self.held = held;
        Ok(())
    }

    /// Converts a picture to RGB and appends it to `ready`.
    fn push_frame(&mut self, picture: &frame::Video, pts: i64, moments: Moments) -> Result<(), VideoError> {
        let at = seconds(pts.saturating_sub(self.first_pts), self.time_base);
        let (width, height) = self.converter.shown_size(picture);
        self.limits.check_pixels(&self.source.path, width, height)?;
        if self.size.replace((width, height)).is_some_and(|last| last != (width, height)) {
            self.warnings.push(Warning::SizeChanged { at, width, height });
        }
        let path = || self.source.path.clone();
        let image =
            self.converter.rgb(picture).map_err(|reason| VideoError::Decode { path: path(), at, reason })?;
        self.ready.push_back(Frame { pts: at, image, moments });
        self.converted += 1;
        Ok(())
    }
}
