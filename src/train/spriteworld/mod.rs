//! SpriteWorld: short clips of moving drawings, with captions and questions that are true of them by construction.
//!
//! Drawings are emoji of several styles (Iconify JSON); a **concept** is an icon's name. A [`World`] makes the clip of
//! any index from its seed alone, so that nothing is stored and every worker may make any part. What a clip tells is
//! one [`Fact`]; its sprites are placed so that this fact can be seen at one frame per second, and captions, near
//! misses and questions are written from the fact.
//!
//! A language model must not be able to guess: answers are balanced, a clip that moves left is a clip that moves
//! right played backwards (so no single frame tells the direction), and the order of two things is the order of the
//! frames alone.

pub mod concepts;
pub mod random;
pub mod icons;
pub mod words;
pub mod scene;
pub mod cast;
pub mod stage;
pub mod overlap;
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
