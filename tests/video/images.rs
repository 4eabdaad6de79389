//! Images are videos of one frame.

use std::io::Cursor;

use flamingo::video::{FrameSampling, Video, VideoLimits};
use image::{ImageFormat, Rgb, RgbImage};
use support::clips::write;

fn picture() -> RgbImage {
    RgbImage::from_fn(23, 17, |x, y| Rgb([x as u8 * 11, y as u8 * 15, 90]))
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn check(name: &str, bytes: &[u8], container: &str, near: u8) {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), name, bytes);
    let video = Video::open(&path, &VideoLimits::default()).unwrap();
    let info = video.info();
    assert_eq!((info.container.as_str(), info.width, info.height, info.frames), (container, 23, 17, 1));
    for sampling in [FrameSampling::fps(1.0), FrameSampling::uniform(8)] {
        let frames: Vec<_> = video.frames(&sampling).unwrap().map(|f| f.unwrap()).collect();
        assert_eq!((frames.len(), frames[0].pts), (1, 0.0), "{name}");
        let expected = picture();
        let off = frames[0].image.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(off.unwrap() <= near, "{name}: {off:?}");
    }
    let later = FrameSampling::fps(1.0).within(0.5, None);
    assert_eq!(video.frames(&later).unwrap().count(), 0, "{name}");
}

#[test]
fn detects_format_regardless_of_name() {
    check("a.png", &encoded(ImageFormat::Png), "png", 0);
    check("b.mp4", &encoded(ImageFormat::WebP), "webp", 0);
    check("c.png", &encoded(ImageFormat::Gif), "gif", 40);
    check("d", &encoded(ImageFormat::Jpeg), "jpeg", 40);
}

#[test]
fn applies_exif_orientation() {
    let plain = encoded(ImageFormat::Jpeg);
    // APP1 with one entry: orientation 6, a rotation by 90 degrees clockwise.
    let tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let length = (2 + 6 + tiff.len()) as u16;
    let app1 = [&b"\xff\xe1"[..], &length.to_be_bytes(), b"Exif\0\0", tiff].concat();
    let turned = [&plain[..2], &app1, &plain[2..]].concat();
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str, bytes: &[u8]| {
        let video = Video::open(write(directory.path(), name, bytes), &VideoLimits::default()).unwrap();
        video.frames(&FrameSampling::fps(1.0)).unwrap().next().unwrap().unwrap().image
    };
    assert_eq!(open("turned.jpg", &turned), image::imageops::rotate90(&open("plain.jpg", &plain)));
}

#[test]
fn limits_apply_to_images() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.png", &encoded(ImageFormat::Png));
    let limits = VideoLimits { max_pixels: 23 * 17 - 1, ..VideoLimits::default() };
    assert_eq!(Video::open(&path, &limits).err().map(|e| e.code()), Some("limit_pixels"));
}
