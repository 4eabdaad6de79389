//! Detection of MPEG transport streams. Recordings begin anywhere within a packet and can be damaged, so the
//! distance between sync bytes decides, and a few of them may be missing.

const SYNC: u8 = 0x47;
/// Packet lengths in bytes: plain; after a time stamp of 4 bytes; before 16 bytes of error correction.
const PLAIN: u64 = 188;
const M2TS: u64 = 192;
const LENGTHS: [u64; 3] = [PLAIN, M2TS, 204];
/// Number of packets from which on one of them may be damaged.
const TOLERANT_FROM: usize = 5;

/// Whether the bytes are a transport stream.
pub(super) fn is_transport_stream(head: &[u8]) -> bool {
    packets(head).is_some()
}

/// Returns the length of a file that ends with its last packet, given its first bytes and its length.
pub(super) fn whole_packets(head: &[u8], length: u64) -> Option<u64> {
    let (offset, packet) = packets(head)?;
    // The time stamp of M2TS precedes its packet, so the last packet ends without one.
    let stamp = if packet == M2TS { M2TS - PLAIN } else { 0 };
    Some(offset + (length.saturating_sub(offset) + stamp).next_multiple_of(packet) - stamp)
}

/// Position of the first packet, and the length of each.
fn packets(head: &[u8]) -> Option<(u64, u64)> {
    let mut all = LENGTHS.iter().flat_map(|length| (0..*length).map(move |offset| (offset, *length)));
    all.find(|(offset, length)| has_packets(head, *offset as usize, *length as usize))
}

/// Whether packets of this length begin at `offset`. At least two are needed.
fn has_packets(head: &[u8], offset: usize, length: usize) -> bool {
    let starts = || (offset..head.len().saturating_sub(3)).step_by(length);
    let packets = starts().count();
    let damaged = starts().filter(|at| !is_packet_header(&head[*at..])).count();
    let allowed = if packets < TOLERANT_FROM { 0 } else { packets / TOLERANT_FROM };
    packets >= 2 && damaged <= allowed
}

/// Whether the first four bytes can be a packet header. A packet has adaptation data, a payload, or both.
fn is_packet_header(bytes: &[u8]) -> bool {
    bytes[0] == SYNC && bytes[3] & 0x30 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(length: usize, cut: usize, damaged: &[usize]) -> Vec<u8> {
        let mut bytes = vec![0x55; length * 20];
        for (i, packet) in bytes.chunks_mut(length).enumerate() {
            packet[0] = if damaged.contains(&i) { 0x46 } else { SYNC };
        }
        bytes[cut..].to_vec()
    }

    #[test]
    fn finds_packets_of_each_length_and_at_each_offset() {
        for length in LENGTHS.map(|length| length as usize) {
            for cut in [0, 1, 77, length - 1] {
                assert!(is_transport_stream(&stream(length, cut, &[])), "{length} {cut}");
                assert!(is_transport_stream(&stream(length, cut, &[1, 9])), "{length} {cut}, damaged");
            }
        }
        assert!(is_transport_stream(&stream(188, 0, &[0])));
    }

    #[test]
    fn a_cut_packet_is_completed() {
        let bytes = stream(204, 100, &[]);
        assert_eq!(whole_packets(&bytes, 104 + 204 * 19), Some(104 + 204 * 19));
        assert_eq!(whole_packets(&bytes, 104 + 204 * 18 + 1), Some(104 + 204 * 19));
        assert_eq!(whole_packets(&stream(192, 188, &[]), 192 * 7), Some(192 * 7));
    }

    #[test]
    fn other_bytes_are_no_transport_stream() {
        assert!(!is_transport_stream(&stream(188, 0, &[1, 3, 5, 7, 9])));
        assert!(!is_transport_stream(&stream(191, 0, &[])));
        assert!(!is_transport_stream(&stream(188, 0, &[])[..188]));
        assert!(!is_transport_stream(&[b'G'; 4096]));
        assert!(!is_transport_stream(b"G\0\0\x10"));
    }
}
