//! The packets that must be decoded so that the wanted frames are bit-equal to those of a full decode: pure
//! arithmetic.
//!
//! A stream is a sequence of GOPs, each from a random access packet to the next. The plan leaves out:
//! - GOPs without a wanted frame, because decoding restarts at each random access packet;
//! - the packets of a GOP after its last wanted one, because no packet depends on later packets in decoding
//!   order;
//! - disposable packets that are not wanted, because no packet depends on them;
//! - leading pictures (presented before the random access packet that they follow) if decoding starts there:
//!   they need the previous GOP, and only leading pictures refer to them. If one is wanted, the previous GOP
//!   is decoded too.
//!
//! The rule for leading pictures holds for MPEG-2, MPEG-4 and HEVC (H.265 8.3.2: the reference picture set of
//! a CRA picture holds no picture that precedes an earlier IRAP picture). In H.264 only IDR pictures count as
//! random access here, and they have no leading pictures. In VP8, VP9 and AV1 presentation order is decoding
//! order.

use super::bitstream::PacketProperties;

/// A packet of the video stream, as found by the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketInfo {
    /// Presentation time in ticks; `None` if the container gives none.
    pub pts: Option<i64>,
    pub properties: PacketProperties,
    /// Decoded but not presented, because it is outside the edit list of the container.
    pub hidden: bool,
}

/// A range of packets that is decoded independently. The decoder is drained at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Index of the packet at which decoding starts.
    pub first: usize,
    /// Index of the last packet that is sent.
    pub last: usize,
    /// Number of wanted frames that the decoder has returned when this segment is drained, earlier segments
    /// included.
    pub wanted_until: usize,
}

/// The packets to decode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub segments: Vec<Segment>,
    /// For every packet: whether it is sent to the decoder.
    pub send: Vec<bool>,
}

impl Plan {
    /// Number of packets that are sent to the decoder.
    pub(super) fn packets_to_send(&self) -> usize {
        self.send.iter().filter(|sent| **sent).count()
    }
}

struct Gop {
    first: usize,
    /// Index after its last packet.
    end: usize,
    last_wanted: Option<usize>,
    wanted: usize,
    /// A leading picture of this GOP is wanted, so the previous GOP must be decoded too.
    needs_previous: bool,
}

/// Plans the decoding of `wanted`: packet indices in any order, each once.
pub(super) fn plan(packets: &[PacketInfo], wanted: &[usize]) -> Plan {
    let mut is_wanted = vec![false; packets.len()];
    for index in wanted {
        is_wanted[*index] = true;
    }
    let gops = gops(packets, &is_wanted);
    let top_layer = packets.iter().map(|p| p.properties.layer).max().unwrap_or(0);
    let disposable = |p: &PacketInfo| p.properties.disposable && p.properties.layer == top_layer;
    let mut plan = Plan { segments: Vec::new(), send: vec![false; packets.len()] };
    let mut wanted_until = 0;
    for (g, gop) in gops.iter().enumerate() {
        let whole = gops.get(g + 1).is_some_and(|next| next.needs_previous);
        let last = if whole { Some(gop.end - 1) } else { gop.last_wanted };
        let Some(last) = last else { continue };
        for i in gop.first..=last {
            let dropped_leading = g > 0 && !gop.needs_previous && is_leading(packets, gop.first, i);
            plan.send[i] = is_wanted[i] || !(disposable(&packets[i]) || dropped_leading);
        }
        wanted_until += gop.wanted;
        match plan.segments.last_mut() {
            Some(segment) if gop.needs_previous => {
                (segment.last, segment.wanted_until) = (last, wanted_until)
            }
            _ => plan.segments.push(Segment { first: gop.first, last, wanted_until }),
        }
    }
    plan
}

fn is_leading(packets: &[PacketInfo], start: usize, i: usize) -> bool {
    matches!((packets[i].pts, packets[start].pts), (Some(pts), Some(key)) if pts < key)
}

fn gops(packets: &[PacketInfo], is_wanted: &[bool]) -> Vec<Gop> {
    let mut gops: Vec<Gop> = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        if i == 0 || (packet.properties.random_access && packet.pts.is_some()) {
            gops.push(Gop { first: i, end: i, last_wanted: None, wanted: 0, needs_previous: false });
        }
        let not_first = gops.len() > 1;
        let Some(gop) = gops.last_mut() else { continue };
        gop.end = i + 1;
        if is_wanted[i] {
            gop.last_wanted = Some(i);
            gop.wanted += 1;
            gop.needs_previous |= not_first && is_leading(packets, gop.first, i);
        }
    }
    // A GOP that the next one needs can be decoded from its own start. The next one does not need its leading
    // pictures (see above), so the dependency ends here.
    gops
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses one packet per word in decoding order, a letter and the pts: `I` random access, `P` referenced,
    /// `b` disposable.
    fn stream(text: &str) -> Vec<PacketInfo> {
        let packet = |word: &str| PacketInfo {
            pts: word[1..].parse().ok(),
            properties: PacketProperties {
                random_access: word.starts_with('I'),
                disposable: word.starts_with('b'),
                ..PacketProperties::default()
            },
            hidden: false,
        };
        text.split_whitespace().map(packet).collect()
    }

    /// `wanted` lists pts; `sent` lists pts in decoding order, with `|` after each segment.
    fn check(name: &str, text: &str, wanted: &[i64], sent: &str) {
        let packets = stream(text);
        let index = |pts: &i64| packets.iter().position(|p| p.pts == Some(*pts)).unwrap();
        let indices: Vec<usize> = wanted.iter().map(index).collect();
        let plan = plan(&packets, &indices);
        let mut words = Vec::new();
        for segment in &plan.segments {
            for i in (segment.first..=segment.last).filter(|i| plan.send[*i]) {
                words.push(packets[i].pts.unwrap().to_string());
            }
            words.push("|".into());
        }
        assert_eq!(words.join(" "), sent, "{name}");
        assert_eq!(
            plan.packets_to_send(),
            words.iter().filter(|w| *w != "|").count(),
            "{name}: nothing outside segments"
        );
        assert_eq!(plan.segments.last().map_or(0, |s| s.wanted_until), wanted.len(), "{name}");
    }

    const CLOSED: &str = "I0 P3 b1 b2 P5 b4 I6 P9 b7 b8 I10 P12 b11 P13";

    #[test]
    fn plans_closed_gops() {
        check("a key frame alone", CLOSED, &[6], "6 |");
        check("tail dropped, disposables skipped", CLOSED, &[0, 5], "0 3 5 |");
        check("a disposable frame is wanted", CLOSED, &[4], "0 3 5 4 |");
        check("a GOP without targets is left out", CLOSED, &[3, 12], "0 3 | 10 12 |");
        check("all", "I0 P2 b1", &[0, 1, 2], "0 2 1 |");
        check("nothing", CLOSED, &[], "");
        check("no packets", "", &[], "");
    }

    const OPEN: &str = "I0 P3 b1 P2 I6 P4 b5 P9 b7 I12 P10 b11 P13";

    #[test]
    fn plans_open_gops() {
        check("leading pictures are dropped when decoding starts there", OPEN, &[9], "6 9 |");
        check("a wanted leading picture needs the GOP before", OPEN, &[5], "0 3 2 6 4 5 |");
        check("only one GOP before: its own leading pictures do not matter", OPEN, &[10], "6 9 12 10 |");
        check("both leading", OPEN, &[4, 11], "0 3 2 6 4 9 12 10 11 |");
        check("the first GOP keeps its leading pictures", "I2 P0 b1 P3", &[3], "2 0 3 |");
    }

    #[test]
    fn decodes_from_start_without_random_access() {
        check("recovery points only", "P0 P1 b2 P3 P4", &[3], "0 1 3 |");
    }

    #[test]
    fn keeps_unreferenced_pictures_of_lower_layers() {
        let mut packets = stream("I0 b4 b2 b1 b3");
        packets[2].properties.layer = 1;
        packets[3].properties.layer = 2;
        packets[4].properties.layer = 2;
        assert_eq!(plan(&packets, &[4]).send, [true, true, true, false, true]);
    }
}
