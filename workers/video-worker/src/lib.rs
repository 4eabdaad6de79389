//! From a video that nobody trusts to a report.
//!
//! The bytes of a video are parsed in a child process ([`decoder`]); a [`model`] looks at what comes out
//! ([`understand`]), for many videos side by side ([`engine`]); what is to be said about it is a [`report::Report`]. With
//! the feature `service` the same is done for jobs of a queue: a [`message`] is read, its inputs are listed ([`batch`]),
//! each is brought here ([`fetch`]), decoded and answered; what an error means is decided in [`outcome`].

pub mod decoder;
pub mod seen;
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
pub mod sheet;
pub mod understand;
#[cfg(feature = "service")]
pub mod seen_cache;
#[cfg(feature = "service")]
pub mod item_report;
#[cfg(feature = "service")]
pub mod outcome;
#[cfg(feature = "service")]
pub mod batch;
#[cfg(feature = "service")]
pub mod admission;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "service")]
pub mod start;
#[cfg(feature = "service")]
pub mod dead;
#[cfg(feature = "service")]
pub mod status;
#[cfg(feature = "service")]
pub mod pages;
