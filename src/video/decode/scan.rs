//! One pass over the packets before any frame is asked for: what can be sampled, and is it within the limits.

use ffmpeg::Packet;
use ffmpeg_next as ffmpeg;

use super::open::{Demuxer, Header, Source, is_hidden};
use super::{Clock, Decoder};
use crate::error::VideoError;
use crate::video::plan::PacketInfo;
use crate::video::{VideoLimits, Warning};

/// A frame that will be presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// In the stream's time base.
    pub pts: i64,
    /// Index of its packet; meaningless when the times were derived by decoding.
    pub packet: usize,
}

pub(super) struct Scan {
    /// In decoding order.
    pub packets: Vec<PacketInfo>,
    /// In presentation order, each pts once; never empty.
    pub shown: Vec<Shown>,
    /// Ticks from the last frame's pts to its end.
    pub last_duration: i64,
    /// Pixels of the first decoded picture, before it is turned.
    pub size: (u32, u32),
    /// Packets do not carry all times: `shown` comes from decoding everything.
    pub derived: bool,
    pub warnings: Vec<Warning>,
}

pub(super) fn scan(source: &Source, limits: &VideoLimits) -> Result<(Header, Scan), VideoError> {
    let (mut demuxer, header) = Demuxer::open(source, limits)?;
    let (packets, last_duration) = read_packets(&mut demuxer, &header, source, limits)?;
    let derived = packets.iter().any(|p| p.pts.is_none());
    let (first, size) = first_picture(source, limits)?;
    let mut shown = if derived { decoded_times(source, limits)? } else { packet_times(&packets, first) };
    shown.sort_by_key(|frame| frame.pts);
    shown.dedup_by_key(|frame| frame.pts);
    let (Some(start), Some(end)) = (shown.first(), shown.last()) else {
        return Err(VideoError::NoFrames { path: source.path.clone() });
    };
    let seconds = super::seconds(end.pts.saturating_sub(start.pts), header.time_base);
    check_duration(source, limits, seconds)?;
    let mut warnings = Vec::new();
    if let Some(reason) = broken(&demuxer, &header, source, packets.len()) {
        warnings.push(Warning::BrokenTail { readable_until: seconds, reason });
    }
    if derived {
        warnings.push(Warning::MissingPts);
    }
    Ok((header, Scan { packets, shown, last_duration, size, derived, warnings }))
}

fn read_packets(
    demuxer: &mut Demuxer,
    header: &Header,
    source: &Source,
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
            // A header may promise anything; what is refused is what is found.
            let first = *first.get_or_insert(pts);
            check_duration(source, limits, super::seconds(pts.saturating_sub(first), header.time_base))?;
        }
        packets.push(info);
    }
    Ok((packets, last.1.max(0)))
}

fn info(packet: &Packet, header: &Header) -> PacketInfo {
    let content = header.syntax.read(packet.data().unwrap_or(&[]), packet.is_key());
    // An empty packet carries side data only and presents nothing.
    PacketInfo { pts: packet.pts(), content, hidden: is_hidden(packet) || packet.size() == 0 }
}

fn check_duration(source: &Source, limits: &VideoLimits, seconds: f64) -> Result<(), VideoError> {
    if seconds <= limits.max_duration_s {
        return Ok(());
    }
    Err(VideoError::TooLong { path: source.path.clone(), found: seconds, allowed: limits.max_duration_s })
}

/// Why the video ends before its file said it would.
fn broken(demuxer: &Demuxer, header: &Header, source: &Source, found: usize) -> Option<String> {
    if let Some(bytes) = source.promised.filter(|bytes| *bytes > source.length) {
        return Some(format!("the file has {} of the {bytes} bytes that it promises", source.length));
    }
    if let Some(reason) = &demuxer.broken {
        return Some(reason.clone());
    }
    let promised = header.promised_packets;
    (promised > found).then(|| format!("the file promises {promised} packets and has {found}"))
}

/// Time zero is the first frame that comes out of the decoder: pictures before it (an open GOP at the start of a cut
/// file) have no reference and are not presented.
fn packet_times(packets: &[PacketInfo], first: i64) -> Vec<Shown> {
    let shown = packets.iter().enumerate().filter(|(_, p)| !(p.hidden || p.content.invisible));
    shown
        .filter_map(|(packet, p)| p.pts.filter(|pts| *pts >= first).map(|pts| Shown { pts, packet }))
        .collect()
}

/// The pts and size of the first frame that a full decode presents.
fn first_picture(source: &Source, limits: &VideoLimits) -> Result<(i64, (u32, u32)), VideoError> {
    let mut found = None;
    decode_all(source, limits, Clock::default(), |pts, size| {
        found = Some((pts, size));
        false
    })?;
    let Some((pts, (width, height))) = found else {
        return Err(VideoError::NoFrames { path: source.path.clone() });
    };
    limits.check_pixels(&source.path, width, height)?;
    Ok((pts, (width, height)))
}

fn decoded_times(source: &Source, limits: &VideoLimits) -> Result<Vec<Shown>, VideoError> {
    let mut shown = Vec::new();
    decode_all(source, limits, Clock { derived: true, last: None }, |pts, _| {
        shown.push(Shown { pts, packet: 0 });
        true
    })?;
    Ok(shown)
}

/// Calls `see` with the pts and size of every frame of a full decode until it says stop.
fn decode_all(
    source: &Source,
    limits: &VideoLimits,
    mut clock: Clock,
    mut see: impl FnMut(i64, (u32, u32)) -> bool,
) -> Result<(), VideoError> {
    let (mut demuxer, _) = Demuxer::open(source, limits)?;
    let mut decoder = Decoder::new(&demuxer, source, limits)?;
    let mut picture = ffmpeg::frame::Video::empty();
    let mut sent = 0;
    loop {
        let packet = demuxer.next();
        decoder.send(packet.as_ref());
        sent += 1;
        while decoder.receive(&mut picture) {
            if !see(clock.tick(&picture), (picture.width(), picture.height())) {
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
