//! Entry points for `fuzz/`.

use super::protocol;

/// Parses all messages from the start of `bytes` and writes them again.
pub fn reencode(mut bytes: &[u8], max_pixels: u64) -> Vec<u8> {
    let mut written = Vec::new();
    while let Ok(message) = protocol::read(&mut bytes, max_pixels) {
        protocol::write(&mut written, message).expect("a parsed message can be written");
    }
    written
}
