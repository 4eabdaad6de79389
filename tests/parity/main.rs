//! Parity with references that we did not write, stage by stage. The scripts that made the goldens are in `golden/`.

mod adapters;
mod checkpoint;

mod vision;
mod clip;
mod open_flamingo;
mod dhansmair;
mod language;
mod language_models;
mod language_broken;
mod language_gguf;
mod precision;
mod tokenizers;
mod language_cache;
mod model;
mod flamingo_whole;
mod idefics;
mod otter;
mod sequences;
mod text_tower;
mod classifiers;
mod metrics;
mod mllama;
mod mllama_vision;
mod mllama_directory;
mod headers;
