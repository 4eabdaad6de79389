//! For `fuzz/`: what the parent understands of a child.

use super::wire;

/// All messages that `bytes` begin with, written again.
pub fn understood(mut bytes: &[u8], max_pixels: u64) -> Vec<u8> {
    let mut written = Vec::new();
    while let Ok(message) = wire::read(&mut bytes, max_pixels) {
        wire::write(&mut written, message).expect("what was read can be written");
    }
    written
}
