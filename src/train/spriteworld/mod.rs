//! SpriteWorld: short clips of moving drawings, with captions and questions that are true of them by
//! construction.
//!
//! Drawings are emoji of several styles (Iconify JSON); a **concept** is the name of an icon. A [`World`]
//! generates the clip of any index from its seed, so clips are not stored and any process can generate any
//! part. A clip shows one [`Fact`]. Its sprites are placed so that the fact is visible at one frame per
//! second, and captions, near misses and questions are generated from the fact.
//!
//! A language model must not be able to guess the answers. Answers are therefore balanced, a clip that moves
//! left is a clip that moves right played backwards (so no single frame reveals the direction), and only the
//! order of the frames reveals the order of two sprites.

pub mod concepts;
pub mod random;
pub mod icons;
pub mod words;
pub mod scene;
pub mod cast;
pub mod stage;
pub mod overlap;
pub mod augmentation;
pub mod family;
pub mod render;
pub mod captions;
pub mod questions;
pub mod clip;
pub mod world;

pub use clip::{Clip, Episode};
pub use concepts::WorldError;
pub use questions::{Question, QuestionKind};
pub use random::Split;
pub use scene::{Fact, Motion, Scene};
pub use world::{World, WorldConfig};

#[cfg(test)]
mod tests;
