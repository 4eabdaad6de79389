//! End-to-end tests of the built program: one file per promise.

mod program;

mod answers;
mod bad_inputs;
mod bad_models;
mod bad_use;
mod chat;
mod classify;
mod closed_pipe;
mod bench;
mod datasets;
mod decoder_child;
mod engine;
mod few_shot;
mod few_shot_jobs;
mod frame_modes;
mod fuzz_seeds;
mod hostile;
mod label_scores;
mod long;
mod methods;
mod mini;
mod model_check;
mod model_pull;
mod names;
mod prefixes;
mod pulled_families;
mod search;
mod service;
mod support_sets;
mod trace;
mod training;
mod visual_tokens;
mod windows;
