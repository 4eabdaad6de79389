//! Training: a world to see, a text tower to agree with, and the stages that make a Flamingo of them.

pub mod spriteworld;
pub mod text_tower;
pub mod config;
pub mod optimiser;
pub mod run;
pub mod curves;
pub mod features;
pub mod contrastive;
pub mod answers;
pub mod recipe;
pub mod evaluate;
