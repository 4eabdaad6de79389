//! Code that the test binaries share: sample clips, goldens, tiny checkpoints, servers. One file per kind.

pub mod repository;
pub mod clips;
pub mod collector;
pub mod golden;
pub mod icons;
pub mod language_model;
pub mod likelihood;
pub mod random_weights;
pub mod proxy;
pub mod servers;
pub mod tiny_hub;
pub mod tiny_s3;
pub mod target;
