//! Entry points for `fuzz/`: parsers of untrusted bytes that are not part of the API.

use super::bitstream::Syntax;
use super::sniff::{HEAD_BYTES, declared_length, sniff};

/// Detects the format of a file from its first bytes and reads the length that it declares.
pub fn first_bytes(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    std::hint::black_box((sniff(head), declared_length(head)));
}

/// Reads the properties of a packet.
pub fn packet(codec: &str, extra: &[u8], packet: &[u8], key: bool) {
    let syntax = Syntax::new(codec, extra);
    let properties = syntax.read(packet, key);
    // Decoding starts only at packets that the container marks as key.
    assert!(key || !properties.random_access || syntax == Syntax::Intra, "{syntax:?}: {properties:?}");
}
