//! Video decoding: sampled frames against a full decode and FFmpeg's own tools, limits, refused and damaged
//! files.

mod contract;
mod cut_images;
mod equality;
mod images;
mod limits;
mod refusals;
mod shown;
mod tails;
mod times;
