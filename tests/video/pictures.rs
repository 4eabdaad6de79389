//! Pictures of ffmpeg, as files and as pixels, to compare ours with.

use std::path::Path;

use flamingo::video::{FrameSampling, Video, VideoLimits, Warning};
use image::RgbImage;
use support::clips::run;
use support::repository;

/// Conversion to RGB with chroma interpolated to every pixel.
const FLAGS: &str = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp";

/// Makes a picture of a `lavfi` source and encoder options. Returns the bytes of the file.
pub fn make(recipe: &str, extension: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("picture.{extension}"));
    let recipe = format!("-nostdin -v error -f lavfi -i {recipe} -frames:v 1");
    // The muxer of AVIF is not chosen by extension.
    let muxer: &[&str] = if extension == "avif" { &["-f", "avif"] } else { &[] };
    let arguments: Vec<&str> = recipe.split_whitespace().chain(muxer.iter().copied()).collect();
    run("ffmpeg", &[&arguments[..], &[path.to_str().unwrap()]].concat());
    std::fs::read(path).unwrap()
}

/// A file of the folder `files`.
pub fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(repository::root().join("tests/video/files").join(name)).unwrap()
}

/// Reads the only frame of a file that is an image.
pub fn still(path: &Path) -> (Video, RgbImage, Vec<Warning>) {
    let video = Video::open(path, &VideoLimits::default()).unwrap_or_else(|e| panic!("{e}"));
    let mut frames = video.frames(&FrameSampling::fps(1.0)).unwrap();
    let frame = frames.next().unwrap().unwrap();
    assert!(frames.next().is_none() && frame.pts == 0.0, "{}: more frames", path.display());
    let warnings = frames.summary().warnings;
    (video, frame.image, warnings)
}

/// Returns the pixels that ffmpeg reads from a file, all frames one after the other. `input` are options before the
/// file.
pub fn by_ffmpeg(path: &Path, input: &str, filter: &str, pixels: &str) -> Vec<u8> {
    let head = format!("-nostdin -v error {input} -i");
    let tail = format!(
        "-map 0:v:0 -vsync passthrough -vf {filter} -sws_flags {FLAGS} -f rawvideo -pix_fmt {pixels} -"
    );
    let arguments: Vec<&str> =
        head.split_whitespace().chain([path.to_str().unwrap()]).chain(tail.split_whitespace()).collect();
    run("ffmpeg", &arguments).stdout
}

/// Mean difference of all samples.
pub fn mean_difference(ours: &[u8], theirs: &[u8]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "another size");
    let off: u64 = ours.iter().zip(theirs).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    off as f64 / ours.len() as f64
}

/// Mean difference of luma. swscale assumes another chroma siting than the standards, which this library follows, so
/// colours at edges differ.
pub fn luma_difference(ours: &[u8], theirs: &[u8]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "another size");
    let pairs = ours.chunks_exact(3).zip(theirs.chunks_exact(3));
    pairs.map(|(ours, theirs)| (luma(ours) - luma(theirs)).abs()).sum::<f64>() / (ours.len() / 3) as f64
}

pub fn luma(rgb: &[u8]) -> f64 {
    0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2])
}
