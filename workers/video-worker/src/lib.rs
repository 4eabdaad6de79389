//! The video worker: from untrusted videos to reports.
//!
//! A child process parses the bytes of a video ([`decoder`]). A [`model`] encodes the frames and answers the tasks
//! ([`analysis`]), for many videos at once ([`engine`]). The result is a [`report::Report`]. With the feature `service` the
//! same is done for jobs of a queue: a [`message`] is parsed, its inputs are listed ([`batch`]), downloaded ([`fetch`]),
//! decoded and answered; [`retry_policy`] decides which errors are retried.

pub mod decoder;
pub mod encoded_video;
pub mod model;
pub mod engine;
#[cfg(feature = "service")]
pub mod location;
#[cfg(feature = "service")]
pub mod message;
#[cfg(feature = "service")]
pub mod settings;
#[cfg(feature = "service")]
pub mod budget;
#[cfg(feature = "service")]
pub mod fetch;
pub mod report;
pub mod progress;
#[cfg(feature = "service")]
pub mod contact_sheet;
pub mod analysis;
#[cfg(feature = "service")]
pub mod visual_token_cache;
#[cfg(feature = "service")]
pub mod item_report;
#[cfg(feature = "service")]
pub mod retry_policy;
#[cfg(feature = "service")]
pub mod batch;
#[cfg(feature = "service")]
pub mod admission;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "service")]
pub mod app;
#[cfg(feature = "service")]
pub mod dead_letters;
#[cfg(feature = "service")]
pub mod status;
#[cfg(feature = "service")]
pub mod pages;
