//! The only place that calls FFmpeg: packets -> the frames of a sampling.
//!
//! The scan (`scan.rs`) knows the time of every frame, so the sampling picks frames before anything is decoded, and
//! the plan (`plan.rs`) says which packets they need. Should a frame not come out as promised, all that follows from
//! that segment on is decoded in full, and each remaining target takes the first frame at or after it.

mod convert;
mod open;
mod scan;

use std::collections::VecDeque;
use std::sync::Arc;

use ffmpeg::{Packet, frame};
use ffmpeg_next as ffmpeg;

use self::convert::Converter;
pub(super) use self::open::Source;
use self::open::{Demuxer, Header};
use self::scan::{Scan, Shown};
use super::plan::{self, Plan};
use super::{Frame, FrameSampling, Summary, VideoInfo, VideoLimits, Warning};
use crate::error::VideoError;

/// Ticks -> seconds.
fn seconds(ticks: i64, (numerator, denominator): (i64, i64)) -> f64 {
    // One rounding only, so that times and targets that are equal as fractions are equal here.
    (i128::from(ticks) * i128::from(numerator)) as f64 / denominator as f64
}

/// A scanned video, ready to be sampled any number of times, also at the same time.
pub(super) struct Stream {
    source: Source,
    limits: VideoLimits,
    header: Header,
    scan: Arc<Scan>,
    /// Of `scan.shown`, in seconds since the first.
    times: Vec<f64>,
}

impl Stream {
    pub(super) fn open(source: Source, limits: &VideoLimits) -> Result<(Self, VideoInfo), VideoError> {
        let (header, scan) = scan::scan(&source, limits)?;
        let zero = scan.shown[0].pts;
        let times: Vec<f64> =
            scan.shown.iter().map(|s| seconds(s.pts.saturating_sub(zero), header.time_base)).collect();
        let info = info(&source, &header, &scan, &times);
        Ok((Stream { source, limits: limits.clone(), header, scan: Arc::new(scan), times }, info))
    }

    pub(super) fn frames(&self, sampling: &FrameSampling, full: bool) -> Result<Frames, VideoError> {
        let picks = sampling.pick(&self.times)?;
        let wanted: Vec<Shown> = picks.frames.iter().map(|i| self.scan.shown[*i]).collect();
        let packets: Vec<usize> = wanted.iter().map(|s| s.packet).collect();
        let full = full || self.scan.derived;
        let plan = if full { Plan::default() } else { plan::plan(&self.scan.packets, &packets) };
        let decoded = if full { self.scan.packets.len() } else { plan.sent() } as u64;
        if decoded > self.limits.max_decoded_frames {
            return Err(VideoError::TooManyDecodedFrames {
                path: self.source.path.clone(),
                found: decoded,
                allowed: self.limits.max_decoded_frames,
            });
        }
        let (demuxer, _) = Demuxer::open(&self.source, &self.limits)?;
        let decoder = Decoder::new(&demuxer, &self.source, &self.limits)?;
        let mut warnings = self.scan.warnings.clone();
        if picks.left_out > 0 {
            warnings.push(Warning::LeftOut { frames: picks.left_out });
        }
        Ok(Frames {
            source: self.source.clone(),
            limits: self.limits.clone(),
            time_base: self.header.time_base,
            zero: self.scan.shown[0].pts,
            packets: self.scan.packets.len(),
            demuxer,
            decoder,
            converter: Converter::new(self.header.orientation),
            clock: Clock { derived: self.scan.derived, last: None },
            wanted: wanted.iter().map(|s| s.pts).collect(),
            picked: 0,
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

fn info(source: &Source, header: &Header, scan: &Scan, times: &[f64]) -> VideoInfo {
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
        duration: span + seconds(scan.last_duration, header.time_base),
        frames,
        average_fps,
        start_pts: seconds(scan.shown[0].pts, header.time_base),
    }
}

/// A frame's time in ticks.
#[derive(Debug, Default)]
struct Clock {
    /// Times are missing: take FFmpeg's best guess, and one tick after the last frame where it has none, so that
    /// every pass over the file gives every frame the same time of its own.
    derived: bool,
    last: Option<i64>,
}

impl Clock {
    fn tick(&mut self, picture: &frame::Video) -> i64 {
        let next = self.last.map_or(0, |last| last.saturating_add(1));
        let tick = match (self.derived, picture.pts()) {
            (false, Some(pts)) => pts,
            _ => picture.timestamp().map_or(next, |t| if self.last.is_none() { t } else { t.max(next) }),
        };
        self.last = Some(tick);
        tick
    }
}

struct Decoder {
    video: ffmpeg::decoder::Video,
    /// Packets that the decoder refused.
    errors: u64,
}

impl Decoder {
    fn new(demuxer: &Demuxer, source: &Source, limits: &VideoLimits) -> Result<Self, VideoError> {
        let video = demuxer.decoder(limits).map_err(|e| VideoError::Decode {
            path: source.path.clone(),
            at: 0.0,
            reason: e.to_string(),
        })?;
        Ok(Decoder { video, errors: 0 })
    }

    /// `None` asks for all frames that are still inside. A packet that does not decode is counted, no more: the
    /// frames around it are still worth having.
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
                // Each such error belongs to one packet that went in, so this ends.
                Err(_) => self.errors += 1,
            }
        }
    }
}

enum Mode {
    /// Following the plan, in the segment of this number.
    Planned { segment: usize },
    /// Every packet from here on is decoded.
    Full,
}

/// The frames of one sampling.
pub(super) struct Frames {
    source: Source,
    limits: VideoLimits,
    time_base: (i64, i64),
    /// pts of the first presented frame.
    zero: i64,
    /// Packets in the stream.
    packets: usize,
    demuxer: Demuxer,
    decoder: Decoder,
    converter: Converter,
    clock: Clock,
    /// pts of the frames that are still to come, ascending.
    wanted: VecDeque<i64>,
    picked: usize,
    plan: Plan,
    mode: Mode,
    /// Index of the packet that `demuxer` gives next.
    at: usize,
    ready: VecDeque<Frame>,
    size: Option<(u32, u32)>,
    sent: u64,
    done: bool,
    warnings: Vec<Warning>,
}

/// A frame came out that the plan did not expect, or one did not come out that it did.
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
        if self.done && !self.wanted.is_empty() {
            warnings.push(Warning::MissingFrames { frames: self.wanted.len() });
        }
        let picked = (self.picked - self.ready.len()) as u64;
        Summary {
            picked,
            decoded: self.sent,
            skipped: (self.packets as u64).saturating_sub(self.sent),
            warnings,
        }
    }

    /// One packet further.
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
        // The demuxer ending early is a mismatch too: the drained segment lacks frames.
        if outcome.is_ok() && (packet.is_none() || index >= current.last) {
            outcome = self.send(None)?;
            if self.picked < current.wanted_until {
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
        // In this mode no frame is unexpected.
        let _ = self.send(packet.as_ref())?;
        self.done = ended;
        Ok(())
    }

    fn decode_in_full_from(&mut self, index: usize) -> Result<(), VideoError> {
        let from =
            self.wanted.front().map_or(0.0, |pts| seconds(pts.saturating_sub(self.zero), self.time_base));
        self.warnings.push(Warning::FullDecode { from });
        (self.demuxer, _) = Demuxer::open(&self.source, &self.limits)?;
        self.at = 0;
        while self.at < index && self.demuxer.next().is_some() {
            self.at += 1;
        }
        self.decoder.video.flush();
        self.mode = Mode::Full;
        Ok(())
    }

    /// Sends a packet, or `None` to drain, and takes the frames that come out.
    fn send(&mut self, packet: Option<&Packet>) -> Result<Result<(), Mismatch>, VideoError> {
        if packet.is_some() {
            self.sent += 1;
            // More than planned only after a mismatch; the limit holds for the pass as a whole.
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
            let Some(next) = self.wanted.front() else { continue };
            if pts < *next {
                continue;
            }
            if pts > *next && matches!(self.mode, Mode::Planned { .. }) {
                return Ok(Err(Mismatch));
            }
            while self.wanted.front().is_some_and(|wanted| *wanted <= pts) {
                self.wanted.pop_front();
            }
            self.take(&picture, pts)?;
        }
        Ok(Ok(()))
    }

    fn take(&mut self, picture: &frame::Video, pts: i64) -> Result<(), VideoError> {
        let at = seconds(pts.saturating_sub(self.zero), self.time_base);
        let (width, height) = (picture.width(), picture.height());
        self.limits.check_pixels(&self.source.path, width, height)?;
        if self.size.replace((width, height)).is_some_and(|last| last != (width, height)) {
            self.warnings.push(Warning::SizeChanged { at, width, height });
        }
        let path = || self.source.path.clone();
        let image =
            self.converter.rgb(picture).map_err(|reason| VideoError::Decode { path: path(), at, reason })?;
        self.ready.push_back(Frame { pts: at, image });
        self.picked += 1;
        Ok(())
    }
}
