//! From a video that nobody trusts to a report.
//!
//! The bytes of a video are parsed in a child process ([`decoder`]); the model looks at what comes out
//! ([`understand`]); what is to be said about it is a [`report::Report`].

pub mod decoder;
pub mod report;
pub mod understand;
