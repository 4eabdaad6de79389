//! One pass over all packets when a video is opened. It lists the frames that can be sampled and checks the
//! limits.

use std::sync::Arc;

use ffmpeg::Packet;
use ffmpeg_next as ffmpeg;

use super::open::{Demuxer, SourceFile, StreamHeader, is_hidden};
use super::{FrameClock, VideoDecoder};
use crate::error::VideoError;
use crate::video::plan::PacketInfo;
use crate::video::times::{self, PacketTimes, Repair, RepairKind, Repairs, TimeRules};
use crate::video::{VideoLimits, Warning};

/// Repairs with a warning each; later ones are counted.
const MAX_REPAIR_WARNINGS: usize = 16;
/// Bits of a time stamp in an MPEG stream.
const MPEG_TIME_BITS: u32 = 33;
/// Packets around a joint that a transport stream demuxer marks as damaged.
const JOINT_PACKETS: usize = 2;

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
    /// All packets in decoding order, with repaired times.
    pub packets: Vec<PacketInfo>,
    /// All presented frames in presentation order, each pts once; never empty.
    pub presented: Vec<PresentedFrame>,
    /// Ticks to add to the times of each packet as read; empty if all times are plausible.
    pub shifts: Arc<[i64]>,
    /// Ticks from the last frame's pts to its end.
    pub duration: i64,
    /// Median distance of two frames in ticks, or the duration of the only one.
    pub interval: i64,
    /// Width and height of the first decoded picture as it is shown, before rotation.
    pub size: (u32, u32),
    /// Some packets have no pts, so `presented` comes from a full decode.
    pub derived: bool,
    pub warnings: Vec<Warning>,
}

pub(super) fn scan(source: &SourceFile, limits: &VideoLimits) -> Result<(StreamHeader, Scan), VideoError> {
    let (mut demuxer, header) = Demuxer::open(source, limits)?;
    let mut packets = read_packets(&mut demuxer, &header, source, limits)?;
    let derived = packets.iter().any(|p| p.info.pts.is_none());
    let repairs = if derived { Repairs::default() } else { repair_times(&mut packets, &header, source) };
    let shifts: Arc<[i64]> = repairs.shifts.into();
    let (first, size) = first_picture(source, &shifts, limits)?;
    let mut presented = if derived { decoded_times(source, limits)? } else { packet_times(&packets, first) };
    presented.sort_by_key(|frame| frame.pts);
    presented.dedup_by_key(|frame| frame.pts);
    let (Some(start), Some(end)) = (presented.first(), presented.last()) else {
        return Err(VideoError::NoFrames { path: source.path.clone() });
    };
    let interval = times::median_interval(presented.iter().map(|frame| frame.pts).collect());
    let duration = match packets.get(end.packet).map_or(0, |packet| packet.duration) {
        duration @ 1.. => duration,
        _ => interval,
    };
    let interval = if interval > 0 { interval } else { duration };
    let ticks = |pts: i64| pts.saturating_sub(start.pts);
    let seconds = |pts: i64| super::seconds(ticks(pts), header.time_base);
    check_duration(source, limits, seconds(end.pts.saturating_add(duration)))?;
    let mut warnings: Vec<Warning> = repairs
        .repairs
        .iter()
        .take(MAX_REPAIR_WARNINGS)
        .map(|repair| warning(repair, &packets, &header, start.pts))
        .collect();
    if let Some(repairs) = repairs.repairs.len().checked_sub(MAX_REPAIR_WARNINGS).filter(|more| *more > 0) {
        warnings.push(Warning::MoreRepairs { repairs });
    }
    warnings.extend(damage(&packets, &repairs.repairs, seconds));
    if let Some(reason) = truncation(&demuxer, &header, source, &packets) {
        warnings.push(Warning::BrokenTail { readable_until: seconds(end.pts), reason });
    }
    if header.alpha_ignored {
        warnings.push(Warning::AlphaIgnored);
    }
    if derived {
        warnings.push(Warning::MissingPts);
    }
    let packets = packets.into_iter().map(|packet| packet.info).collect();
    Ok((header, Scan { packets, shifts, presented, duration, interval, size, derived, warnings }))
}

/// A packet of the scan, with what only the scan needs.
struct ScannedPacket {
    info: PacketInfo,
    dts: Option<i64>,
    duration: i64,
    /// The demuxer reports that bytes are missing.
    corrupt: bool,
}

fn read_packets(
    demuxer: &mut Demuxer,
    header: &StreamHeader,
    source: &SourceFile,
    limits: &VideoLimits,
) -> Result<Vec<ScannedPacket>, VideoError> {
    let mut packets = Vec::new();
    while let Some(packet) = demuxer.next() {
        if packets.len() as u64 >= limits.max_packets {
            return Err(VideoError::TooManyPackets {
                path: source.path.clone(),
                allowed: limits.max_packets,
            });
        }
        packets.push(ScannedPacket {
            info: info(&packet, header),
            dts: packet.dts(),
            duration: packet.duration(),
            corrupt: packet.is_corrupt(),
        });
    }
    Ok(packets)
}

fn info(packet: &Packet, header: &StreamHeader) -> PacketInfo {
    let properties = header.syntax.read(packet.data().unwrap_or(&[]), packet.is_key());
    // An empty packet carries side data only, no picture.
    PacketInfo { pts: packet.pts(), properties, hidden: is_hidden(packet) || packet.size() == 0 }
}

/// Repairs the times of the packets in place. The result covers all packets.
fn repair_times(packets: &mut [ScannedPacket], header: &StreamHeader, source: &SourceFile) -> Repairs {
    // Packets outside the edit list are no evidence: their times are not those of the presentation.
    let visible: Vec<usize> = (0..packets.len()).filter(|i| !packets[*i].info.hidden).collect();
    let times = |i: &usize| {
        let ScannedPacket { info, dts, duration, .. } = &packets[*i];
        PacketTimes { pts: info.pts.unwrap_or(0), dts: *dts, duration: *duration }
    };
    let times: Vec<PacketTimes> = visible.iter().map(times).collect();
    let (numerator, denominator) = header.time_base;
    let rate = denominator as f64 / numerator.max(1) as f64;
    let wrap = matches!(source.container, "mpegts" | "mpeg").then_some(1 << MPEG_TIME_BITS);
    let rules = TimeRules { rate, wrap };
    let mut repairs = times::repair(&times, rules);
    if repairs.shifts.is_empty() {
        return repairs;
    }
    let mut shifts = vec![0; packets.len()];
    for (i, shift) in visible.iter().zip(&repairs.shifts) {
        shifts[*i] = *shift;
        let pts = &mut packets[*i].info.pts;
        *pts = pts.map(|pts| pts.saturating_add(*shift));
    }
    repairs.shifts = shifts;
    repairs.repairs.iter_mut().for_each(|repair| repair.packet = visible[repair.packet]);
    repairs
}

fn warning(repair: &Repair, packets: &[ScannedPacket], header: &StreamHeader, start: i64) -> Warning {
    let pts = packets[repair.packet].info.pts.unwrap_or(start);
    let at = super::seconds(pts.saturating_sub(start), header.time_base).max(0.0);
    let by = super::seconds(repair.by, header.time_base);
    match repair.kind {
        RepairKind::Outlier => Warning::WrongTime { at, by },
        RepairKind::Restart => Warning::TimesRestart { at, by },
        RepairKind::Jump => Warning::TimesJump { at, by },
    }
}

/// Reports damaged packets. Where two recordings are joined, MPEG-TS counters do not continue: that is no damage.
fn damage(packets: &[ScannedPacket], repairs: &[Repair], seconds: impl Fn(i64) -> f64) -> Option<Warning> {
    let is_joint = |i: usize| {
        let next = repairs.partition_point(|repair| repair.packet + JOINT_PACKETS < i);
        repairs.get(next).is_some_and(|repair| repair.packet <= i + JOINT_PACKETS)
    };
    // The last packet is a broken tail.
    let whole = packets.len().saturating_sub(1);
    let damaged: Vec<usize> = (0..whole).filter(|i| packets[*i].corrupt && !is_joint(*i)).collect();
    let first = packets[*damaged.first()?].info.pts;
    Some(Warning::DamagedPackets { packets: damaged.len(), from: first.map_or(0.0, seconds).max(0.0) })
}

fn check_duration(source: &SourceFile, limits: &VideoLimits, seconds: f64) -> Result<(), VideoError> {
    if seconds <= limits.max_duration_s {
        return Ok(());
    }
    Err(VideoError::TooLong { path: source.path.clone(), found: seconds, allowed: limits.max_duration_s })
}

/// Returns the reason why the video ends before the end that its file declares, if it does.
fn truncation(
    demuxer: &Demuxer,
    header: &StreamHeader,
    source: &SourceFile,
    packets: &[ScannedPacket],
) -> Option<String> {
    if let Some(bytes) = source.declared_length.filter(|bytes| *bytes > source.length) {
        return Some(format!("the file has {} of its {bytes} bytes", source.length));
    }
    if let Some(reason) = &demuxer.broken {
        return Some(reason.clone());
    }
    if packets.last().is_some_and(|packet| packet.corrupt) {
        return Some("a packet is cut off".into());
    }
    let (found, declared) = (packets.len(), header.declared_packets);
    (declared > found)
        .then(|| format!("the file has {found} of the {declared} packets that its header declares"))
}

/// Lists the presented frames by the pts of their packets. Time zero is the first frame that the decoder
/// returns: pictures before it (an open GOP at the start of a cut file) lack their references and are not
/// presented.
fn packet_times(packets: &[ScannedPacket], first: i64) -> Vec<PresentedFrame> {
    let visible = packets.iter().enumerate().filter(|(_, p)| !(p.info.hidden || p.info.properties.invisible));
    let presented = |(packet, p): (usize, &ScannedPacket)| Some(PresentedFrame { pts: p.info.pts?, packet });
    visible.filter_map(presented).filter(|frame| frame.pts >= first).collect()
}

/// Returns the pts and size of the first frame of a full decode.
fn first_picture(
    source: &SourceFile,
    shifts: &Arc<[i64]>,
    limits: &VideoLimits,
) -> Result<(i64, (u32, u32)), VideoError> {
    let mut found = None;
    decode_all(source, shifts, limits, FrameClock::default(), |pts, size| {
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
    let unrepaired = Arc::default();
    decode_all(source, &unrepaired, limits, FrameClock { derived: true, last: None }, |pts, _| {
        presented.push(PresentedFrame { pts, packet: 0 });
        true
    })?;
    Ok(presented)
}

/// Calls `observe` with the pts and size of every frame of a full decode until it returns false.
fn decode_all(
    source: &SourceFile,
    shifts: &Arc<[i64]>,
    limits: &VideoLimits,
    mut clock: FrameClock,
    mut observe: impl FnMut(i64, (u32, u32)) -> bool,
) -> Result<(), VideoError> {
    let (demuxer, header) = Demuxer::open(source, limits)?;
    let mut demuxer = demuxer.with_shifts(shifts);
    let mut decoder = VideoDecoder::new(&demuxer, source, limits)?;
    let mut picture = ffmpeg::frame::Video::empty();
    let mut sent = 0;
    loop {
        let packet = demuxer.next();
        decoder.send(packet.as_ref());
        sent += 1;
        while decoder.receive(&mut picture) {
            if !observe(clock.tick(&picture), header.shown_size(&picture)) {
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
