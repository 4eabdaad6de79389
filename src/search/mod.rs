//! Search for videos by text or by another video, in the joint space of a model (Flamingo's first version, appendix B.1.3).

mod index;
mod text_tower;

pub use index::{IndexEntry, IndexError, VideoIndex};
pub use text_tower::TextTower;
