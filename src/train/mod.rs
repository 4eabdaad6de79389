//! Training: the SpriteWorld data, the text tower, and the stages that train a Flamingo.

pub mod spriteworld;
pub mod config;
pub mod optimiser;
pub mod run;
pub mod curves;
pub mod features;
pub mod contrastive;
mod text_states;
pub mod answers;
pub mod recipe;
pub mod evaluate;
