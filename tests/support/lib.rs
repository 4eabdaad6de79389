//! What the test binaries share: sample clips, goldens, tiny checkpoints. One file per kind.

pub mod clips;
