//! Images whose data end too early are refused; images with all their data are read, however they end.

use std::path::Path;

use flamingo::video::{FrameSampling, Video, VideoLimits};
use image::RgbImage;
use support::clips::write;

use crate::pictures::{by_ffmpeg, fixture, make, mean_difference};

/// Reads the only frame of a file.
fn read(directory: &Path, bytes: &[u8]) -> Result<RgbImage, String> {
    let video = Video::open(write(directory, "picture", bytes), &VideoLimits::default());
    let video = video.map_err(|e| format!("{}: {e}", e.code()))?;
    let mut frames = video.frames(&FrameSampling::fps(1.0)).unwrap();
    let frame = frames.next().unwrap().unwrap();
    assert_eq!(frames.summary().warnings, []);
    Ok(frame.image)
}

#[track_caller]
fn refused(name: &str, directory: &Path, bytes: &[u8]) {
    match read(directory, bytes) {
        Err(e) => assert!(e.starts_with("malformed_video: "), "{name}: {e}"),
        Ok(_) => panic!("{name}: accepted"),
    }
}

/// JPEGs by name: baseline in four kinds of sampling, and progressive.
fn jpegs() -> Vec<(&'static str, Vec<u8>)> {
    let noise = "noise=alls=25:allf=t";
    vec![
        ("420", make(&format!("testsrc2=s=210x150,{noise} -pix_fmt yuvj420p -q:v 4"), "jpg")),
        ("422", make(&format!("testsrc2=s=87x131,{noise} -pix_fmt yuvj422p -q:v 2"), "jpg")),
        ("444", make("mandelbrot=s=96x64 -pix_fmt yuvj444p -q:v 3", "jpg")),
        ("flat", make("color=c=red:s=330x440 -pix_fmt yuvj420p", "jpg")),
        ("progressive_420", fixture("progressive_420.jpg")),
        ("progressive_444", fixture("progressive_444.jpg")),
        ("progressive_grey", fixture("progressive_grey.jpg")),
        ("restarts", fixture("restarts.jpg")),
    ]
}

#[test]
fn cut_jpegs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, whole) in jpegs() {
        read(directory.path(), &whole).unwrap_or_else(|e| panic!("{name}: {e}"));
        let zeros = vec![0; whole.len()];
        for share in [0.35, 0.5, 2.0 / 3.0, 0.8, 0.95] {
            let cut = &whole[..(whole.len() as f64 * share) as usize];
            let name = format!("{name} cut at {share}");
            refused(&name, directory.path(), cut);
            refused(&format!("{name}, filled with zeros"), directory.path(), &[cut, &zeros].concat());
            if !name.starts_with("progressive") {
                refused(&format!("{name}, closed"), directory.path(), &[cut, b"\xff\xd9"].concat());
            }
        }
    }
}

#[test]
fn jpegs_with_all_their_data_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let other = make("testsrc2=s=48x32 -pix_fmt yuvj420p", "jpg");
    for (name, whole) in jpegs() {
        let picture = read(directory.path(), &whole).unwrap();
        let open = whole.strip_suffix(b"\xff\xd9").unwrap();
        let check = |ending: &str, bytes: &[u8]| {
            let found = read(directory.path(), bytes).unwrap_or_else(|e| panic!("{name} {ending}: {e}"));
            assert!(found == picture, "{name} {ending}: another picture");
        };
        check("without end marker", open);
        check("filled with zeros", &[open, &[0; 3_000]].concat());
        check("with bytes after the end", &[&whole[..], b"\0\0trailer\xff\xda\0\x08"].concat());
        // As phones append the picture of a second camera.
        check("with another picture after the end", &[&whole[..], &other].concat());
    }
}

/// Both decoders see the same picture: the end marker that we add changes nothing.
#[test]
fn a_jpeg_is_the_picture_of_ffmpeg() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in jpegs() {
        let ours = read(directory.path(), &bytes).unwrap();
        let path = write(directory.path(), "again.jpg", &bytes);
        let mean = mean_difference(ours.as_raw(), &by_ffmpeg(&path, "", "null", "rgb24"));
        assert!(mean < 4.0, "{name}: {mean:.2} off");
    }
}

#[test]
fn other_cut_images_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (extension, more) in [("png", ""), ("gif", ""), ("webp", ""), ("webp", "-lossless 1")] {
        for size in ["60x45", "131x77", "90x160"] {
            let whole = make(&format!("testsrc2=s={size},noise=alls=20:allf=t {more}"), extension);
            read(directory.path(), &whole).unwrap_or_else(|e| panic!("{extension}: {e}"));
            for share in [0.3, 0.5, 2.0 / 3.0, 0.95] {
                let cut = &whole[..(whole.len() as f64 * share) as usize];
                refused(&format!("{size} {extension} {more} cut at {share}"), directory.path(), cut);
            }
        }
    }
}
