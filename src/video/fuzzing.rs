//! Entry points for `fuzz/`: parsers of untrusted bytes that are not part of the API.

use std::io::Cursor;

use image::ImageFormat;

use super::animation::timeline::timeline;
use super::bitstream::Syntax;
use super::sniff::{HEAD_BYTES, declared_length, sniff};
use super::still;
use super::times::{PacketTimes, Repairs, TimeRules, repair};

/// Detects the format of a file from its first bytes and reads the length that it declares.
pub fn first_bytes(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    std::hint::black_box((sniff(head), declared_length(head, bytes.len() as u64)));
}

/// Reads the markers of a JPEG and the headers of animations.
pub fn image_headers(bytes: &[u8]) {
    std::hint::black_box(still::jpeg::Jpeg::new(bytes.into()).has_all_scans());
    for format in [ImageFormat::Gif, ImageFormat::Png, ImageFormat::WebP] {
        let timeline = timeline(format, Cursor::new(bytes), bytes.len() as u64, 1000);
        assert!(timeline.delays.len() <= 1001 && !timeline.delays.contains(&0), "{timeline:?}");
    }
}

/// Reads the properties of a packet.
pub fn packet(codec: &str, extra: &[u8], packet: &[u8], key: bool) {
    let syntax = Syntax::new(codec, extra);
    let properties = syntax.read(packet, key);
    // Decoding starts only at packets that the container marks as key.
    assert!(key || !properties.random_access || syntax == Syntax::Intra, "{syntax:?}: {properties:?}");
}

/// Repairs the times of packets: 17 bytes each for pts, dts and a byte of flags and duration.
pub fn times(bytes: &[u8]) {
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let packet = |bytes: &[u8; 17]| PacketTimes {
        pts: number(&bytes[..8]),
        dts: (bytes[16] & 1 == 0).then(|| number(&bytes[8..16])),
        duration: i64::from(bytes[16] >> 1),
    };
    let packets: Vec<PacketTimes> = bytes.as_chunks().0.iter().map(packet).collect();
    for wrap in [None, Some(1 << 33)] {
        let Repairs { shifts, repairs } = repair(&packets, TimeRules { rate: 90_000.0, wrap });
        assert!(shifts.is_empty() == repairs.is_empty() && [0, packets.len()].contains(&shifts.len()));
        assert!(repairs.is_sorted_by_key(|repair| repair.packet));
    }
}
