//! Inference on untrusted videos: from a file to a report.
//!
//! A child process parses the bytes of a video ([`decoder`]). Every request has a [`context`]. A [`model`] encodes the frames and answers the tasks
//! ([`analysis`]), for many videos at once ([`engine`]). The result is a [`report::Report`].

pub mod listing;
pub mod time;
pub mod progress;
pub mod context;
pub mod decoder;
pub mod encoded_video;
pub mod model;
pub mod engine;
pub mod report;
pub mod medium_classifier;
pub mod method_name;
pub mod shot_options;
pub mod support;
pub mod methods;
pub mod analysis;
