//! Video decoding: sampled frames against a full decode and FFmpeg's own tools, limits, refused and damaged
//! files.

mod animations;
mod contract;
mod cut_images;
mod equality;
mod images;
mod limits;
mod pictures;
mod refusals;
mod displayed;
mod shown;
mod tails;
mod times;
mod transport_streams;
