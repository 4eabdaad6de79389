//! Frames of a sampling against a full decode, against FFmpeg's own tools, and against the limits.

mod contract;
mod equality;
mod images;
mod limits;
mod refusals;
mod tails;
