//! Animated GIF, PNG and WebP files are videos: their frames by time, with disposal, on white.

use std::path::{Path, PathBuf};

use flamingo::video::{Frame, FrameSampling, Video, VideoLimits, Warning};
use support::clips::{run, write};

use crate::pictures::{by_ffmpeg, fixture, luma_difference};

/// Makes an animation with ffmpeg: frames of one colour each, that stay for some hundredths of a second.
fn animation(directory: &Path, extension: &str, size: &str, stays: &[(&str, u32)]) -> PathBuf {
    let mut arguments: Vec<String> = ["-nostdin", "-v", "error", "-y"].map(String::from).into();
    for (colour, hundredths) in stays {
        let seconds = f64::from(*hundredths) / 100.0;
        let source = format!("color={colour}:s={size}:r=100:d={seconds}");
        arguments.extend(["-f", "lavfi", "-i", &source].map(String::from));
    }
    // Equal frames become one that stays.
    let inputs: String = (0..stays.len()).map(|i| format!("[{i}]")).collect();
    let filter = format!("{inputs}concat=n={},mpdecimate=max=0:hi=1:lo=1:frac=0,settb=1/1000", stays.len());
    arguments.extend(["-filter_complex", &filter, "-vsync", "vfr"].map(String::from));
    let coder: &[&str] = match extension {
        "gif" => &["-f", "gif"],
        "png" => &["-f", "apng", "-pix_fmt", "rgb24"],
        _ => &["-c:v", "libwebp_anim", "-lossless", "1", "-f", "webp"],
    };
    let path = directory.join(format!("animation.{extension}"));
    arguments.extend(coder.iter().map(|text| text.to_string()));
    arguments.push(path.to_string_lossy().into_owned());
    run("ffmpeg", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    path
}

fn open(path: &Path) -> Video {
    Video::open(path, &VideoLimits::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn sampled(video: &Video, sampling: &FrameSampling) -> (Vec<Frame>, Vec<Warning>) {
    let mut frames = video.frames(sampling).unwrap();
    let all = frames.by_ref().map(|frame| frame.unwrap()).collect();
    (all, frames.summary().warnings)
}

/// The colour of each picture and the number of moments at which it is shown.
fn shown(frames: &[Frame]) -> Vec<(&'static str, usize)> {
    let name = |frame: &Frame| match frame.image.get_pixel(3, 3).0 {
        [200..=255, 0..=60, 0..=60] => "red",
        [0..=60, 0..=60, 200..=255] => "blue",
        [200..=255, 200..=255, 0..=60] => "yellow",
        [240..=255, 240..=255, 240..=255] => "white",
        other => panic!("{other:?}"),
    };
    frames.iter().map(|frame| (name(frame), frame.moments.len())).collect()
}

/// The last frame of ffmpeg's muxers stays as long as they choose, so it has no exact number of moments.
fn check(extension: &str, size: &str, stays: &[(&'static str, u32)]) {
    let directory = tempfile::tempdir().unwrap();
    let path = animation(directory.path(), extension, size, stays);
    let video = open(&path);
    assert_eq!(video.info().container, extension);
    assert_eq!(video.info().frames, stays.len(), "{extension}");
    let (frames, warnings) = sampled(&video, &FrameSampling::fps(10.0));
    assert_eq!(warnings, [], "{extension}");
    let expected: Vec<_> =
        stays.iter().map(|(colour, hundredths)| (*colour, *hundredths as usize / 10)).collect();
    let found = shown(&frames);
    let last = expected.len() - 1;
    assert_eq!(found[..last], expected[..last], "{extension}");
    assert_eq!(found[last].0, expected[last].0, "{extension}");
}

#[test]
fn frames_stay_for_their_delays() {
    for extension in ["gif", "png", "webp"] {
        check(extension, "60x40", &[("red", 100), ("blue", 300)]);
        check(extension, "33x57", &[("yellow", 50), ("red", 20), ("blue", 170), ("red", 40)]);
        check(extension, "128x20", &[("blue", 620), ("yellow", 30), ("blue", 30)]);
    }
}

/// Every picture of a moving pattern, against ffmpeg's decoder. GIF frames change parts of the picture only.
fn check_pictures(extension: &str, options: &str, near: f64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("moving.{extension}"));
    let recipe = format!("-nostdin -v error -f lavfi -i testsrc2=s=98x62:r=10:d=2 {options}");
    let arguments: Vec<&str> = recipe.split_whitespace().chain([path.to_str().unwrap()]).collect();
    run("ffmpeg", &arguments);
    let (frames, warnings) = sampled(&open(&path), &FrameSampling::fps(10.0));
    assert_eq!((frames.len(), warnings), (20, vec![]), "{extension}");
    let theirs = by_ffmpeg(&path, "", "null", "rgb24");
    for (i, (frame, theirs)) in frames.iter().zip(theirs.chunks_exact(98 * 62 * 3)).enumerate() {
        assert!((frame.pts - i as f64 / 10.0).abs() < 1e-6, "{extension} {i}: {}", frame.pts);
        let off = luma_difference(frame.image.as_raw(), theirs);
        assert!(off <= near, "{extension} {i}: {off:.2} off");
    }
}

#[test]
fn pictures_are_those_of_ffmpeg() {
    check_pictures("gif", "-vf split[a][b];[a]palettegen[p];[b][p]paletteuse", 0.01);
    check_pictures("png", "-f apng -pix_fmt rgb24", 0.01);
    check_pictures("png", "-f apng -pix_fmt pal8", 0.01);
}

/// Files of Pillow with transparent frames and both kinds of disposal. The colours of each frame at five places are those
/// of Pillow, composited on white (`files/make.py`).
#[test]
fn frames_are_disposed_of() {
    let expected: serde_json::Value = serde_json::from_slice(&fixture("disposal.json")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (name, frames) in expected.as_object().unwrap() {
        let video = open(&write(directory.path(), name, &fixture(name)));
        let frames = frames.as_array().unwrap();
        assert_eq!(video.info().frames, frames.len(), "{name}");
        let (ours, warnings) = sampled(&video, &FrameSampling::fps(100.0));
        assert_eq!((ours.len(), warnings), (frames.len(), vec![]), "{name}");
        for (i, (ours, pixels)) in ours.iter().zip(frames).enumerate() {
            for pixel in pixels.as_array().unwrap() {
                let number = |k: usize| pixel[k].as_u64().unwrap();
                let found = ours.image.get_pixel(number(0) as u32, number(1) as u32).0;
                let close = (0..3).all(|k| u64::from(found[k]).abs_diff(number(2 + k)) <= 2);
                assert!(close, "{name}, frame {i}: {found:?} for {pixel}");
            }
        }
    }
}

/// Delays of 0 and of 10 ms are 100 ms, as in browsers; 20 ms are 20 ms.
#[test]
fn very_short_delays_are_a_tenth_of_a_second() {
    let directory = tempfile::tempdir().unwrap();
    for (hundredths, seconds) in [(0, 0.1), (1, 0.1), (2, 0.02), (5, 0.05)] {
        let video = open(&write(directory.path(), "short.gif", &gif(40, hundredths)));
        assert_eq!(video.info().frames, 40);
        assert!((video.info().duration - 40.0 * seconds).abs() < 1e-9, "{hundredths}: {:?}", video.info());
    }
}

/// A GIF of one pixel with `frames` frames.
fn gif(frames: usize, hundredths: u16) -> Vec<u8> {
    let mut bytes = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff".to_vec();
    let [low, high] = hundredths.to_le_bytes();
    for i in 0..frames {
        bytes.extend([0x21, 0xf9, 4, 4, low, high, 0, 0]);
        // Clear code, pixel 0 or 1, end code.
        bytes.extend([0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, if i % 2 == 0 { 0x44 } else { 0x4c }, 0x01, 0]);
    }
    bytes.push(0x3b);
    bytes
}

#[test]
fn limits_apply_to_animations() {
    let directory = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    // 1000 frames of 65 s: 18 hours.
    let long = write(directory.path(), "long.gif", &gif(1000, 6500));
    let code = |limits: &VideoLimits| Video::open(&long, limits).err().map(|e| e.code());
    assert_eq!(code(&VideoLimits::default()), Some("limit_duration"));
    let day = VideoLimits { max_duration_s: 65_000.0, ..VideoLimits::default() };
    assert_eq!(code(&day), None);
    assert_eq!(code(&VideoLimits { max_packets: 999, ..day.clone() }), Some("limit_packets"));
    let few = VideoLimits { max_decoded_frames: 500, ..day };
    let video = Video::open(&long, &few).unwrap();
    let error = |fps: f64, to: f64| {
        video.frames(&FrameSampling::fps(fps).within(0.0, Some(to))).err().map(|e| e.code())
    };
    assert_eq!(error(0.01, 30_000.0), None);
    assert_eq!(error(0.01, 40_000.0), Some("limit_decoded_frames"));
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn a_cut_animation_gives_its_frames_and_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    for extension in ["gif", "png", "webp"] {
        let stays = [("red", 100), ("blue", 100), ("yellow", 100), ("red", 100), ("blue", 100)];
        let whole = std::fs::read(animation(directory.path(), extension, "300x200", &stays)).unwrap();
        for share in [0.5, 0.7, 0.9] {
            let cut = write(directory.path(), "cut", &whole[..(whole.len() as f64 * share) as usize]);
            let video = match Video::open(&cut, &VideoLimits::default()) {
                Ok(video) => video,
                // Its decoder needs whole chunks.
                Err(e) if extension == "webp" && e.code() == "malformed_video" => continue,
                Err(e) => panic!("{extension} {share}: {e}"),
            };
            let (frames, warnings) = sampled(&video, &FrameSampling::fps(2.0));
            assert!(!frames.is_empty() && video.info().frames < 5, "{extension} {share}");
            let broken = |w: &Warning| matches!(w, Warning::BrokenTail { .. });
            assert!(warnings.iter().any(broken), "{extension} {share}: {warnings:?}");
        }
        // Half of the first frame.
        let cut = write(directory.path(), "cut", &whole[..whole.len() / 10]);
        assert_eq!(
            Video::open(cut, &VideoLimits::default()).err().map(|e| e.code()),
            Some("malformed_video")
        );
    }
}

/// The decoder of animated PNGs reads 8 bits per channel.
#[test]
fn a_deep_animation_is_a_still_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep.png");
    let recipe = "-nostdin -v error -f lavfi -i testsrc2=s=50x40:r=5:d=1 -f apng -pix_fmt rgb48be";
    run("ffmpeg", &recipe.split(' ').chain([path.to_str().unwrap()]).collect::<Vec<_>>());
    let video = open(&path);
    assert_eq!(video.info().frames, 1);
    assert_eq!(sampled(&video, &FrameSampling::fps(1.0)).1, [Warning::AnimationIgnored { frames: 4 }]);
}
