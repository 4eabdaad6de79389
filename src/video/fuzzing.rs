//! For `fuzz/`: parsers of outside bytes that are no part of the API.

use super::bitstream::Syntax;
use super::sniff::{HEAD, promised_length, sniff};

/// What a file is by its first bytes, and how long it says that it is.
pub fn first_bytes(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD)];
    std::hint::black_box((sniff(head), promised_length(head)));
}

/// What a packet says about itself.
pub fn packet(codec: &str, extra: &[u8], packet: &[u8], key: bool) {
    let syntax = Syntax::new(codec, extra);
    let content = syntax.read(packet, key);
    // Nothing is started from that the container does not call a start.
    assert!(key || !content.random_access || syntax == Syntax::Intra, "{syntax:?}: {content:?}");
}
