//! Images are videos of one frame.

use std::io::Cursor;

use flamingo::video::{FrameSampling, Video, VideoLimits, Warning};
use image::{ImageFormat, Rgb, RgbImage};
use support::clips::{run, write};

use crate::pictures::{by_ffmpeg, fixture, luma_difference, make, mean_difference, still};

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
    check("e.jpg", &encoded(ImageFormat::Bmp), "bmp", 0);
    check("f.bin", &encoded(ImageFormat::Tiff), "tiff", 0);
}

/// Makes a picture with ffmpeg and compares it with the picture that ffmpeg reads from it.
fn check_against_ffmpeg(extension: &str, recipe: &str) {
    let directory = tempfile::tempdir().unwrap();
    let bytes = make(&format!("testsrc2={recipe}"), extension);
    let path = write(directory.path(), "picture", &bytes);
    let (video, image, warnings) = still(&path);
    assert_eq!((video.info().container.as_str(), video.info().frames), (extension, 1), "{recipe}");
    assert_eq!(warnings, [], "{recipe}");
    // 5 bits per channel are rounded in two ways.
    let mean = luma_difference(image.as_raw(), &by_ffmpeg(&path, "", "null", "rgb24"));
    assert!(mean < if extension == "avif" { 2.0 } else { 0.5 }, "{recipe}: {mean:.2} off");
}

#[test]
fn reads_bitmaps_and_tiffs() {
    for (size, pixels) in [("57x31", "bgr24"), ("120x64", "pal8"), ("33x90", "gray"), ("41x40", "rgb555le")] {
        check_against_ffmpeg("bmp", &format!("s={size} -pix_fmt {pixels}"));
    }
    for (size, coding) in [("59x31", "raw"), ("122x64", "lzw"), ("35x90", "deflate"), ("61x50", "packbits")] {
        check_against_ffmpeg("tiff", &format!("s={size} -pix_fmt rgb24 -compression_algo {coding}"));
    }
    check_against_ffmpeg("tiff", "s=65x33 -pix_fmt gray");
}

#[test]
fn reads_avif() {
    for (size, pixels) in [("64x48", "yuv420p"), ("131x77", "yuv444p"), ("90x160", "yuv420p10le")] {
        let recipe =
            format!("s={size} -c:v libaom-av1 -cpu-used 8 -crf 10 -still-picture 1 -pix_fmt {pixels}");
        check_against_ffmpeg("avif", &recipe);
    }
}

/// libavif writes an EXIF orientation as rotation and mirroring of the container. The picture has a red corner,
/// top left before the rotation; the place in each file is that of Pillow's `exif_transpose`.
#[test]
fn rotates_avif() {
    let directory = tempfile::tempdir().unwrap();
    let red = |image: &RgbImage, right: bool, bottom: bool| {
        let (x, y) = (if right { image.width() - 4 } else { 3 }, if bottom { image.height() - 4 } else { 3 });
        let [r, g, b] = image.get_pixel(x, y).0;
        r > 180 && g < 90 && b < 90
    };
    for (orientation, right, bottom) in
        [(3, true, true), (5, false, false), (6, true, false), (7, true, true)]
    {
        let bytes = fixture(&format!("orientation_{orientation}.avif"));
        let (_, image, warnings) = still(&write(directory.path(), "turned", &bytes));
        assert_eq!(image.dimensions(), if orientation == 3 { (48, 32) } else { (32, 48) }, "{orientation}");
        assert!(red(&image, right, bottom), "{orientation}");
        assert_eq!(warnings, [], "{orientation}");
    }
    let (_, _, warnings) = still(&write(directory.path(), "alpha", &fixture("alpha.avif")));
    assert_eq!(warnings, [Warning::AlphaIgnored]);
}

#[test]
fn reads_motion_jpeg_without_a_container() {
    let directory = tempfile::tempdir().unwrap();
    for (size, frames, pixels) in
        [("64x48", 25, "yuvj420p"), ("130x90", 60, "yuvj422p"), ("81x40", 2, "yuvj444p")]
    {
        let path = directory.path().join(format!("{size}.jpg"));
        let recipe =
            format!("-nostdin -v error -f lavfi -i testsrc2=s={size}:r=25 -frames:v {frames} -c:v mjpeg");
        let muxed = ["-pix_fmt", pixels, "-f", "mjpeg", path.to_str().unwrap()];
        run("ffmpeg", &recipe.split(' ').chain(muxed).collect::<Vec<_>>());
        let video = Video::open(&path, &VideoLimits::default()).unwrap();
        let info = video.info();
        assert_eq!((info.container.as_str(), info.frames), ("mjpeg", frames), "{size}");
        // A motion JPEG has no times. FFmpeg plays it at 25 frames per second.
        let mut sampled = video.frames(&FrameSampling::fps(5.0)).unwrap();
        let times: Vec<f64> = sampled.by_ref().map(|frame| frame.unwrap().pts).collect();
        let expected: Vec<f64> = (0..frames.div_ceil(5)).map(|k| k as f64 / 5.0).collect();
        assert_eq!(times, expected, "{size}");
        assert_eq!(sampled.summary().warnings, [], "{size}");
    }
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

/// The picture of ffmpeg with 16 bits per channel, mixed with white by the textbook formula.
fn on_white(path: &std::path::Path) -> Vec<u8> {
    let rgba = by_ffmpeg(path, "", "null", "rgba64le");
    let values: Vec<f64> =
        rgba.chunks_exact(2).map(|b| f64::from(u16::from_le_bytes([b[0], b[1]])) / 65535.0).collect();
    let mixed = |p: &[f64]| [0, 1, 2].map(|i| ((p[i] * p[3] + 1.0 - p[3]) * 255.0).round() as u8);
    values.chunks_exact(4).flat_map(mixed).collect()
}

/// A coloured picture and a black one, both with all steps of alpha from left to right.
const TRANSPARENT: [&str; 3] = [
    "testsrc2=s=87x53:d=0.04,format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*X/W'",
    "color=black:s=90x70:d=0.04,format=rgba,geq=r=0:g=0:b=0:a='255*lt(hypot(X-45,Y-35),25)'",
    "color=red:s=64x128:d=0.04,format=rgba,geq=r='200':g='Y':b='X':a='mod(X*Y,256)'",
];

fn check_transparent(extension: &str, options: &str, near: u8, mean: f64) {
    let directory = tempfile::tempdir().unwrap();
    for source in TRANSPARENT {
        let path = write(directory.path(), "picture", &make(&format!("{source}{options}"), extension));
        let (_, image, warnings) = still(&path);
        assert_eq!(warnings, [], "{extension}{options}");
        let expected = on_white(&path);
        let off = image.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let found = mean_difference(image.as_raw(), &expected);
        assert!(off <= near && found <= mean, "{extension}{options} {source}: {off}, on average {found:.2}");
        // The corner is transparent.
        assert!(image.get_pixel(0, 0).0.iter().all(|value| *value >= 250), "{extension}{options} {source}");
    }
}

#[test]
fn transparent_images_lie_on_white() {
    check_transparent("png", "", 1, 0.5);
    check_transparent("png", ",format=rgba64be -pix_fmt rgba64be", 1, 0.5);
    check_transparent("png", ",format=ya8 -pix_fmt ya8", 1, 0.5);
    check_transparent("png", ",format=ya16be -pix_fmt ya16be", 1, 0.5);
    check_transparent("tiff", " -pix_fmt rgba", 1, 0.5);
    check_transparent("webp", " -lossless 1 -pix_fmt bgra", 1, 0.5);
    check_transparent("webp", " -quality 95 -pix_fmt yuva420p", 255, 4.0);
    let palette = ",split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse=alpha_threshold=128";
    check_transparent("gif", palette, 1, 0.5);
    check_transparent("png", &format!("{palette} -pix_fmt pal8"), 2, 0.5);
}
