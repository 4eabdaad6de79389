//! The frame on the screen at each moment, against a full decode by PyAV (`oracle.py`).

use std::path::Path;
use std::process::Command;

use flamingo::video::{FrameSampling, Video, VideoLimits};
use support::clips::{clip, run};
use support::repository::root;

use crate::contract::shown;

/// Sampling, and the same as arguments of the oracle.
struct Case {
    sampling: FrameSampling,
    arguments: Vec<String>,
}

fn fps(rate: &str, span: &[&str]) -> Case {
    let sampling = FrameSampling::fps(rate.parse().unwrap());
    case(sampling, ["fps", rate], span)
}

fn uniform(n: &str, span: &[&str]) -> Case {
    case(FrameSampling::uniform(n.parse().unwrap()), ["uniform", n], span)
}

fn case(sampling: FrameSampling, kind: [&str; 2], span: &[&str]) -> Case {
    let number = |i: usize| span.get(i).map(|text| text.parse().unwrap());
    let arguments = kind.iter().chain(span).map(|text| text.to_string()).collect();
    Case { sampling: sampling.within(number(0).unwrap_or(0.0), number(1)), arguments }
}

fn oracle(file: &Path, arguments: &[String]) -> Vec<f64> {
    let output = Command::new(root().join(".venv/bin/python"))
        .arg(root().join("tests/video/oracle.py"))
        .arg(file)
        .args(arguments)
        .output()
        .expect("`make test` creates .venv");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", file.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(file: &Path, cases: &[Case]) {
    let video = Video::open(file, &VideoLimits::default()).unwrap();
    for Case { sampling, arguments } in cases {
        let (ours, theirs) = (shown(&video, sampling), oracle(file, arguments));
        let same = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(same, "{} {arguments:?}:\n{ours:?}\n{theirs:?}", file.display());
    }
}

#[test]
fn clips_show_the_frames_of_the_oracle() {
    let cases = [fps("1", &[]), fps("3.7", &["2.3", "6.1"]), uniform("5", &[]), uniform("3", &["1.01", "4"])];
    let clips =
        ["h264_ntsc", "h264_open_gop", "h264_ts", "hevc", "vp9", "vp8", "av1", "mpeg4", "mpeg2", "mjpeg"];
    for name in
        clips.into_iter().chain(["vfr", "edit_list", "negative_pts", "late_start", "short", "one_frame"])
    {
        // A range beyond the end is an error elsewhere.
        let within = !["short", "one_frame"].contains(&name);
        check(&clip(name), if within { &cases } else { &cases[..1] });
    }
}

/// Frames that stay on the screen, as in recordings of a screen.
#[test]
fn frames_that_stay_are_shown_until_the_next() {
    let directory = tempfile::tempdir().unwrap();
    // A burst of pictures, one that stays, and a last one.
    for (name, codec, burst, stays) in [
        ("still.mp4", "-c:v libx264 -preset fast", 11, 40),
        ("still.mkv", "-c:v libx264 -preset fast -bf 0", 17, 33),
        ("still.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -auto-alt-ref 0", 7, 21),
    ] {
        let file = directory.path().join(name);
        let select = format!("select=lt(n\\,{burst})+gte(n\\,{})", burst + stays * 25);
        let mut arguments = vec!["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=168x96:r=25"];
        let length = (burst + stays * 25 + 1).to_string();
        arguments.extend(["-frames:v", "1000000", "-vf", &select, "-vsync", "vfr", "-t"]);
        let seconds = (length.parse::<f64>().unwrap() / 25.0).to_string();
        arguments.push(&seconds);
        arguments.extend(codec.split_whitespace());
        let path = file.display().to_string();
        arguments.push(&path);
        run("ffmpeg", &arguments);
        let cases = [fps("1", &[]), fps("0.5", &["5.5", "15"]), fps("30", &["0.2", "3"]), uniform("6", &[])];
        check(&file, &cases);
        let video = Video::open(&file, &VideoLimits::default()).unwrap();
        let pictures = video.frames(&FrameSampling::fps(1.0)).unwrap().count();
        let moments = shown(&video, &FrameSampling::fps(1.0)).len();
        assert!(pictures <= 3 && moments >= stays, "{name}: {pictures} pictures, {moments} moments");
    }
}

/// Containers with millisecond times: as many samples as frames gives every frame once.
#[test]
fn rounded_times_give_every_frame_once() {
    let directory = tempfile::tempdir().unwrap();
    for rate in [24, 30, 60] {
        let file = directory.path().join(format!("{rate}.mkv"));
        let (source, path) = (format!("testsrc2=s=136x80:r={rate}"), file.display().to_string());
        run("ffmpeg", &["-v", "error", "-f", "lavfi", "-i", &source, "-t", "3", "-c:v", "libx264", &path]);
        check(&file, &[fps(&rate.to_string(), &[])]);
        let video = Video::open(&file, &VideoLimits::default()).unwrap();
        let frames: Vec<_> = video
            .frames(&FrameSampling::fps(f64::from(rate)))
            .unwrap()
            .map(|f| f.unwrap().moments.len())
            .collect();
        assert_eq!(frames, vec![1; 3 * rate as usize], "{rate}");
    }
}
