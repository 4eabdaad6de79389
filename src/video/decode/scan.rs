//! One pass over all packets when a video is opened. It lists the frames that can be sampled and checks the
//! limits.

use ffmpeg::Packet;
use ffmpeg_next as ffmpeg;

use super::open::{Demuxer, SourceFile, StreamHeader, is_hidden};
use super::{FrameClock, VideoDecoder};
use crate::error::VideoError;
use crate::video::plan::PacketInfo;
use crate::video::{VideoLimits, Warning};

/// A frame that a player presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PresentedFrame {
    /// Presentation time in ticks of the stream's time base.
    pub pts: i64,
    /// Index of its packet; unused if the times were derived by decoding.
    pub packet: usize,
}

/// Result of the packet scan.
pub(super) struct Scan {
    /// All packets in decoding order.
    pub packets: Vec<PacketInfo>,
    /// All presented frames in presentation order, each pts once; never empty.
    pub presented: Vec<PresentedFrame>,
    /// Ticks from the last frame's pts to its end.
    pub last_duration: i64,
    /// Width and height of the first decoded picture, before rotation.
    pub size: (u32, u32),
    /// Some packets have no pts, so `presented` comes from a full decode.
    pub derived: bool,
    pub warnings: Vec<Warning>,
}

pub(super) fn scan(source: &SourceFile, limits: &VideoLimits) -> Result<(StreamHeader, Scan), VideoError> {
    let (mut demuxer, header) = Demuxer::open(source, limits)?;
    let (packets, last_duration) = read_packets(&mut demuxer, &header, source, limits)?;
    let derived = packets.iter().any(|p| p.pts.is_none());
    let (first, size) = first_picture(source, limits)?;
    let mut presented = if derived { decoded_times(source, limits)? } else { packet_times(&packets, first) };
    presented.sort_by_key(|frame| frame.pts);
    presented.dedup_by_key(|frame| frame.pts);
    let (Some(start), Some(end)) = (presented.first(), presented.last()) else {
        return Err(VideoError::NoFrames { path: source.path.clone() });
    };
    let seconds = super::seconds(end.pts.saturating_sub(start.pts), header.time_base);
    check_duration(source, limits, seconds)?;
    let mut warnings = Vec::new();
    if let Some(reason) = truncation(&demuxer, &header, source, packets.len()) {
        warnings.push(Warning::BrokenTail { readable_until: seconds, reason });
    }
    if derived {
        warnings.push(Warning::MissingPts);
    }
    Ok((header, Scan { packets, presented, last_duration, size, derived, warnings }))
}

fn read_packets(
    demuxer: &mut Demuxer,
    header: &StreamHeader,
    source: &SourceFile,
    limits: &VideoLimits,
) -> Result<(Vec<PacketInfo>, i64), VideoError> {
    let mut packets = Vec::new();
    let mut last = (i64::MIN, 0);
    let mut first = None;
    while let Some(packet) = demuxer.next() {
        if packets.len() as u64 >= limits.max_packets {
            return Err(VideoError::TooManyPackets {
                path: source.path.clone(),
                allowed: limits.max_packets,
            });
        }
        let info = info(&packet, header);
        if let Some(pts) = info.pts {
            last = last.max((pts, packet.duration()));
            // The check uses the times found in the packets, because the header is untrusted.
            let first = *first.get_or_insert(pts);
            check_duration(source, limits, super::seconds(pts.saturating_sub(first), header.time_base))?;
        }
        packets.push(info);
    }
    Ok((packets, last.1.max(0)))
}

fn info(packet: &Packet, header: &StreamHeader) -> PacketInfo {
    let properties = header.syntax.read(packet.data().unwrap_or(&[]), packet.is_key());
    // An empty packet carries side data only, no picture.
    PacketInfo { pts: packet.pts(), properties, hidden: is_hidden(packet) || packet.size() == 0 }
}

fn check_duration(source: &SourceFile, limits: &VideoLimits, seconds: f64) -> Result<(), VideoError> {
    if seconds <= limits.max_duration_s {
        return Ok(());
    }
    Err(VideoError::TooLong { path: source.path.clone(), found: seconds, allowed: limits.max_duration_s })
}

/// Returns the reason why the video ends before the end that its file declares, if it does.
fn truncation(demuxer: &Demuxer, header: &StreamHeader, source: &SourceFile, found: usize) -> Option<String> {
    if let Some(bytes) = source.declared_length.filter(|bytes| *bytes > source.length) {
        return Some(format!("the file has {} of the {bytes} bytes that its header declares", source.length));
    }
    if let Some(reason) = &demuxer.broken {
        return Some(reason.clone());
    }
    let declared = header.declared_packets;
    (declared > found)
        .then(|| format!("the file has {found} of the {declared} packets that its header declares"))
}

/// Lists the presented frames by the pts of their packets. Time zero is the first frame that the decoder
/// returns: pictures before it (an open GOP at the start of a cut file) lack their references and are not
/// presented.
fn packet_times(packets: &[PacketInfo], first: i64) -> Vec<PresentedFrame> {
    let visible = packets.iter().enumerate().filter(|(_, p)| !(p.hidden || p.properties.invisible));
    visible
        .filter_map(|(packet, p)| p.pts.filter(|pts| *pts >= first).map(|pts| PresentedFrame { pts, packet }))
        .collect()
}

/// Returns the pts and size of the first frame of a full decode.
fn first_picture(source: &SourceFile, limits: &VideoLimits) -> Result<(i64, (u32, u32)), VideoError> {
    let mut found = None;
    decode_all(source, limits, FrameClock::default(), |pts, size| {
        found = Some((pts, size));
        false
    })?;
    let Some((pts, (width, height))) = found else {
        return Err(VideoError::NoFrames { path: source.path.clone() });
    };
    limits.check_pixels(&source.path, width, height)?;
    Ok((pts, (width, height)))
}

/// Lists the presented frames by a full decode.
fn decoded_times(source: &SourceFile, limits: &VideoLimits) -> Result<Vec<PresentedFrame>, VideoError> {
    let mut presented = Vec::new();
    decode_all(source, limits, FrameClock { derived: true, last: None }, |pts, _| {
        presented.push(PresentedFrame { pts, packet: 0 });
        true
    })?;
    Ok(presented)
}

/// Calls `observe` with the pts and size of every frame of a full decode until it returns false.
fn decode_all(
    source: &SourceFile,
    limits: &VideoLimits,
    mut clock: FrameClock,
    mut observe: impl FnMut(i64, (u32, u32)) -> bool,
) -> Result<(), VideoError> {
    let (mut demuxer, _) = Demuxer::open(source, limits)?;
    let mut decoder = VideoDecoder::new(&demuxer, source, limits)?;
    let mut picture = ffmpeg::frame::Video::empty();
    let mut sent = 0;
    loop {
        let packet = demuxer.next();
        decoder.send(packet.as_ref());
        sent += 1;
        while decoder.receive(&mut picture) {
            if !observe(clock.tick(&picture), (picture.width(), picture.height())) {
                return Ok(());
            }
        }
        if packet.is_none() {
            return Ok(());
        }
        if sent > limits.max_decoded_frames {
            let (path, allowed) = (source.path.clone(), limits.max_decoded_frames);
            return Err(VideoError::TooManyDecodedFrames { path, found: sent, allowed });
        }
    }
}
