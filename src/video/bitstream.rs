//! Properties of a packet from its first bytes: can decoding start here, and does any other frame need it.
//!
//! Containers answer only the first question, and their answer can be wrong. FFmpeg also marks H.264 recovery
//! points (gradual refresh, open GOPs) as key packets, and decoding from one is not bit-equal to decoding
//! from the beginning. This module therefore parses the bitstream. If it cannot parse a packet, the answer to
//! both questions is "no": the packet is decoded, and decoding never starts at it.

/// Bitstream syntax of a codec: selects the parser for its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// NAL units, each after a length field of `length_size` bytes, or after a start code if it is 0.
    H264 {
        length_size: usize,
    },
    Hevc {
        length_size: usize,
    },
    Vp8,
    Vp9,
    Av1,
    /// MPEG-4 part 2.
    Mpeg4,
    Mpeg2,
    /// Every packet is a whole picture.
    Intra,
    /// Unknown syntax: all packets are decoded in order.
    Opaque,
}

/// Properties of a packet that the plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PacketProperties {
    /// Decoding can start here, and every frame that follows in presentation order is exact.
    pub random_access: bool,
    /// No other frame refers to this one, so the others do not change without it. In HEVC this holds within
    /// the temporal layer (below) only.
    pub disposable: bool,
    /// Decoded as a reference and never presented (VP8 alternate reference frames have their own packets).
    pub invisible: bool,
    /// HEVC temporal layer. The layers above it can still refer to its unreferenced pictures.
    pub layer: u8,
}

impl Syntax {
    /// Chooses the syntax by FFmpeg's codec name and the extra data of the stream (avcC, hvcC, or start
    /// codes).
    pub(super) fn new(codec: &str, extra: &[u8]) -> Self {
        let configured = |at: usize| match extra {
            [1, ..] if extra.len() > at => usize::from(extra[at] & 3) + 1,
            _ => 0,
        };
        match codec {
            "h264" => Syntax::H264 { length_size: configured(4) },
            "hevc" => Syntax::Hevc { length_size: configured(21) },
            "vp8" => Syntax::Vp8,
            "vp9" => Syntax::Vp9,
            "av1" => Syntax::Av1,
            "mpeg4" => Syntax::Mpeg4,
            "mpeg2video" | "mpeg1video" => Syntax::Mpeg2,
            "mjpeg" | "prores" | "dnxhd" => Syntax::Intra,
            _ => Syntax::Opaque,
        }
    }

    /// Reads the properties of `packet`. `key` is the container's key flag: the packet can only clear it,
    /// except that `Intra` packets always allow random access.
    pub(super) fn read(self, packet: &[u8], key: bool) -> PacketProperties {
        let start = |random_access: bool| PacketProperties {
            random_access: random_access && key,
            ..PacketProperties::default()
        };
        match self {
            Syntax::H264 { length_size } => h264(packet, length_size, key),
            Syntax::Hevc { length_size } => hevc(packet, length_size, key),
            Syntax::Vp8 => PacketProperties {
                invisible: packet.first().is_some_and(|b| b >> 4 & 1 == 0),
                ..start(packet.first().is_some_and(|b| b & 1 == 0))
            },
            Syntax::Vp9 => start(vp9_key(packet)),
            Syntax::Av1 => start(av1_key(packet)),
            Syntax::Mpeg4 => mpeg_picture(packet, 0xb6, |head| head[0] >> 6, [0, 2], key),
            Syntax::Mpeg2 => mpeg_picture(packet, 0x00, |head| head[1] >> 3 & 7, [1, 3], key),
            Syntax::Intra => {
                PacketProperties { random_access: true, disposable: true, ..PacketProperties::default() }
            }
            Syntax::Opaque => PacketProperties::default(),
        }
    }
}

fn h264(packet: &[u8], length_size: usize, key: bool) -> PacketProperties {
    let (mut slices, mut idr, mut referenced, mut sets) = (0, 0, false, false);
    let whole = nal_units(packet, length_size, |nal| match nal[0] & 31 {
        kind @ (1..=5) => {
            slices += 1;
            idr += usize::from(kind == 5);
            referenced |= nal[0] & 0x60 != 0;
        }
        // Later frames need parameter sets and end-of-sequence units even if they do not need this picture.
        7 | 8 | 10 | 11 | 13 | 15 => sets = true,
        _ => {}
    });
    PacketProperties {
        random_access: key && slices > 0 && idr == slices,
        disposable: whole && slices > 0 && !referenced && !sets,
        ..PacketProperties::default()
    }
}

fn hevc(packet: &[u8], length_size: usize, key: bool) -> PacketProperties {
    let (mut slices, mut starts, mut referenced, mut sets, mut layer) = (0, 0, false, false, 0);
    let whole = nal_units(packet, length_size, |nal| {
        match nal[0] >> 1 & 63 {
            kind @ 0..=31 => {
                slices += 1;
                starts += usize::from((16..=21).contains(&kind));
                // Sub-layer non-reference pictures have the even types below 16.
                referenced |= kind >= 16 || kind % 2 == 1;
                layer = layer.max(nal.get(1).map_or(0, |b| (b & 7).saturating_sub(1)));
            }
            32..=34 | 36 | 37 => sets = true,
            _ => {}
        }
    });
    PacketProperties {
        random_access: key && slices > 0 && starts == slices,
        disposable: whole && slices > 0 && !referenced && !sets,
        layer,
        invisible: false,
    }
}

/// Calls `observe` with every non-empty NAL unit. Returns false if the packet is not a clean sequence of NAL
/// units.
fn nal_units(packet: &[u8], length_size: usize, mut observe: impl FnMut(&[u8])) -> bool {
    if length_size == 0 {
        let mut rest = after_start_code(packet);
        let found = rest.is_some();
        while let Some(nal) = rest {
            if !nal.is_empty() {
                observe(nal);
            }
            rest = after_start_code(nal);
        }
        return found;
    }
    let mut rest = packet;
    while rest.len() > length_size {
        let (length, tail) = rest.split_at(length_size);
        let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        if length > tail.len() {
            return false;
        }
        if length > 0 {
            observe(&tail[..length]);
        }
        rest = &tail[length..];
    }
    rest.is_empty()
}

/// Returns the bytes after the next `00 00 01`.
fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            // Neither this byte nor the two before the next can end a start code.
            2.. => at += 3,
            1 if bytes[at - 1] == 0 && bytes[at - 2] == 0 => return Some(&bytes[at + 1..]),
            _ => at += 1,
        }
    }
    None
}

/// Checks the VP9 uncompressed header for a key frame: frame marker 2, profile, show_existing_frame 0, frame
/// type 0.
fn vp9_key(packet: &[u8]) -> bool {
    let Some(&first) = packet.first() else { return false };
    let profile = first >> 5 & 1 | (first >> 4 & 1) << 1;
    // Profile 3 has one more reserved bit.
    let shift = if profile == 3 { 2 } else { 3 };
    first >> 6 == 2 && first >> shift & 1 == 0 && first >> (shift - 1) & 1 == 0
}

/// Checks for an AV1 temporal unit that begins with a sequence header and has a shown key frame as its first
/// frame. Decoding cannot start at a key frame that was hidden and is shown later (`show_existing_frame`).
fn av1_key(packet: &[u8]) -> bool {
    let mut rest = packet;
    let mut sequence = None;
    while let Some((&head, tail)) = rest.split_first() {
        let (kind, extended, sized) = (head >> 3 & 15, head >> 2 & 1, head >> 1 & 1);
        let Some(tail) = tail.get(usize::from(extended)..) else { return false };
        let (size, tail) = if sized == 1 {
            let Some(leb) = leb128(tail) else { return false };
            leb
        } else {
            (tail.len(), tail)
        };
        let Some(body) = tail.get(..size) else { return false };
        match (kind, body.first()) {
            // Frames after a reduced still picture header (bit 3) lack these flags.
            (1, Some(first)) => sequence = Some(first >> 3 & 1 == 0),
            (3 | 6, Some(first)) => {
                let shown_key = first >> 7 == 0 && first >> 5 & 3 == 0 && first >> 4 & 1 == 1;
                return sequence == Some(true) && shown_key;
            }
            _ => {}
        }
        rest = &tail[size..];
    }
    false
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 127) << (7 * i);
        if byte & 128 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// Reads the MPEG picture coding type from the two bytes after the start code of the picture. `types` are the
/// values of `[intra, bidirectional]`. A packet with several pictures (packed B-frames in old AVI files)
/// allows neither random access nor skipping.
fn mpeg_picture(
    packet: &[u8],
    code: u8,
    kind: fn(&[u8]) -> u8,
    types: [u8; 2],
    key: bool,
) -> PacketProperties {
    let mut found = Vec::new();
    let mut headers = false;
    let mut rest = after_start_code(packet);
    while let Some(unit) = rest {
        match unit {
            [first, head @ ..] if *first == code && head.len() >= 2 => found.push(kind(head)),
            // MPEG-4 headers (VOL, GOV), MPEG-2 sequence and group headers.
            [0x20..=0x2f | 0xb0 | 0xb3 | 0xb5 | 0xb8, ..] => headers = true,
            _ => {}
        }
        rest = after_start_code(unit);
    }
    PacketProperties {
        random_access: key && found == [types[0]],
        // Every MPEG-2 picture carries a 0xb5 extension, so headers do not make an MPEG-2 picture necessary.
        disposable: found == [types[1]] && (!headers || code == 0x00),
        ..PacketProperties::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, syntax: Syntax, packet: &[u8], random_access: bool, disposable: bool, layer: u8) {
        let expected = PacketProperties { random_access, disposable, layer, invisible: false };
        assert_eq!(syntax.read(packet, true), expected, "{name}");
        assert!(!PacketProperties { random_access: false, ..syntax.read(packet, false) }.random_access);
    }

    #[test]
    fn h264() {
        let avc = Syntax::new("h264", &[1, 100, 0, 31, 0xff, 0xe1]);
        assert_eq!(avc, Syntax::H264 { length_size: 4 });
        let annex_b = Syntax::new("h264", &[0, 0, 0, 1, 0x67]);
        assert_eq!(annex_b, Syntax::H264 { length_size: 0 });
        check("idr", avc, &[0, 0, 0, 2, 0x65, 9], true, false, 0);
        check("sei and idr", avc, &[0, 0, 0, 1, 6, 0, 0, 0, 2, 0x65, 9], true, false, 0);
        check("recovery point is no start", avc, &[0, 0, 0, 2, 0x61, 9], false, false, 0);
        check("unreferenced", avc, &[0, 0, 0, 2, 0x01, 9], false, true, 0);
        check("one field of two referenced", avc, &[0, 0, 0, 1, 1, 0, 0, 0, 1, 0x21], false, false, 0);
        check("with a parameter set", avc, &[0, 0, 0, 1, 0x68, 0, 0, 0, 1, 1], false, false, 0);
        check("length beyond the packet", avc, &[0, 0, 0, 1, 1, 0, 0, 9, 1, 1], false, false, 0);
        check("empty", avc, &[], false, false, 0);
        check("start codes", annex_b, &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x65, 7, 7], true, false, 0);
        check("start codes, unreferenced", annex_b, &[0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x01, 7], false, true, 0);
    }

    #[test]
    fn hevc() {
        let hevc = Syntax::Hevc { length_size: 2 };
        check("idr", hevc, &[0, 2, 19 << 1, 1], true, false, 0);
        check("cra", hevc, &[0, 3, 21 << 1, 1, 5], true, false, 0);
        check("trail_r", hevc, &[0, 2, 1 << 1, 1], false, false, 0);
        check("trail_n of layer 2", hevc, &[0, 2, 0, 3], false, true, 2);
        check("rasl_n", hevc, &[0, 2, 8 << 1, 1], false, true, 0);
    }

    #[test]
    fn others() {
        check("vp8 key", Syntax::Vp8, &[0x10], true, false, 0);
        check("vp8 inter", Syntax::Vp8, &[0x11], false, false, 0);
        assert!(Syntax::Vp8.read(&[0x01], false).invisible);
        check("vp9 key", Syntax::Vp9, &[0x82], true, false, 0);
        check("vp9 inter", Syntax::Vp9, &[0x86], false, false, 0);
        check("vp9 show existing", Syntax::Vp9, &[0x88], false, false, 0);
        check("vp9 profile 3 key", Syntax::Vp9, &[0xb0], true, false, 0);
        check("av1 key", Syntax::Av1, &[0x12, 0, 0x0a, 1, 0, 0x32, 1, 0x10], true, false, 0);
        check("av1 inter", Syntax::Av1, &[0x12, 0, 0x32, 1, 0x30], false, false, 0);
        check("av1 key without sequence header", Syntax::Av1, &[0x32, 1, 0x10], false, false, 0);
        check("av1 broken size", Syntax::Av1, &[0x0a, 200], false, false, 0);
        check("mpeg-4 I", Syntax::Mpeg4, &[0, 0, 1, 0xb6, 0x10, 0], true, false, 0);
        check("mpeg-4 B", Syntax::Mpeg4, &[0, 0, 1, 0xb6, 0x90, 0], false, true, 0);
        check("mpeg-4 P", Syntax::Mpeg4, &[0, 0, 1, 0xb6, 0x50, 0], false, false, 0);
        check(
            "mpeg-4 packed P and B",
            Syntax::Mpeg4,
            &[0, 0, 1, 0xb6, 0x50, 9, 0, 0, 1, 0xb6, 0x90, 0],
            false,
            false,
            0,
        );
        check("mpeg-2 I", Syntax::Mpeg2, &[0, 0, 1, 0, 0, 1 << 3], true, false, 0);
        check("mpeg-2 B", Syntax::Mpeg2, &[0, 0, 1, 0, 0, 3 << 3, 0, 0, 1, 0xb5, 1], false, true, 0);
        check("mjpeg", Syntax::Intra, &[0xff, 0xd8], true, true, 0);
        check("unknown", Syntax::Opaque, &[1, 2, 3], false, false, 0);
    }
}
