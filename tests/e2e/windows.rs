//! Long videos: consecutive windows with an answer and a time range each, or one answer about all frames.

use support::clips::clip;

use crate::program::{flamingo, listing, quick};

fn ranges(report: &serde_json::Value) -> Vec<(f64, f64, Vec<f64>)> {
    let numbers = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
    };
    let range = |a: &serde_json::Value| {
        (a["start"].as_f64().unwrap(), a["end"].as_f64().unwrap(), numbers(&a["frame_times"][0]))
    };
    report["answers"].as_array().unwrap().iter().map(range).collect()
}

/// Checks start, end and frames of each window of a clip of nine seconds.
#[track_caller]
fn check(options: &[&str], expected: &[(f64, f64, &[f64])]) {
    check_clip("h264_refresh", options, expected);
}

#[track_caller]
fn check_clip(name: &str, options: &[&str], expected: &[(f64, f64, &[f64])]) {
    let path = clip(name).display().to_string();
    let ran = quick(&[&["caption", &path, "--json"], options].concat()).exits(0);
    let found = ranges(&ran.report());
    let expected: Vec<_> = expected.iter().map(|(a, b, frames)| (*a, *b, frames.to_vec())).collect();
    assert_eq!(found, expected);
}

#[test]
fn windows_cover_the_video() {
    check(
        &["--window", "2s"],
        &[
            (0.0, 2.0, &[0.0, 1.0]),
            (2.0, 4.0, &[2.0, 3.0]),
            (4.0, 6.0, &[4.0, 5.0]),
            (6.0, 8.0, &[6.0, 7.0]),
            (8.0, 9.0, &[8.0]),
        ],
    );
    check(&[], &[(0.0, 9.0, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]);
}

#[test]
fn windows_start_at_the_start_of_the_range() {
    check(&["--start", "1s", "--end", "3"], &[(1.0, 3.0, &[1.0, 2.0])]);
    check(
        &["--start", "3", "--end", "8s", "--window", "3s"],
        &[(3.0, 6.0, &[3.0, 4.0, 5.0]), (6.0, 8.0, &[6.0, 7.0])],
    );
    // Windows without frames have no answer.
    check(
        &["--fps", "0.25", "--window", "2s"],
        &[(0.0, 2.0, &[0.0]), (4.0, 6.0, &[4.0]), (8.0, 9.0, &[8.0])],
    );
}

/// The clip has no new frame from 8 to 11.3 s.
#[test]
fn a_frame_that_stays_stands_in_every_window() {
    let gap = 7.933;
    check_clip(
        "vfr",
        &["--start", "6", "--end", "14s", "--window", "2s"],
        &[
            (6.0, 8.0, &[5.833, 7.0]),
            (8.0, 10.0, &[gap, gap]),
            (10.0, 12.0, &[gap, gap]),
            (12.0, 14.0, &[11.9, 12.833]),
        ],
    );
    check_clip("vfr", &["--start", "9", "--end", "11"], &[(9.0, 11.0, &[gap, gap])]);
    let path = clip("pause").display().to_string();
    let report = quick(&["caption", &path, "--json"]).exits(1).report();
    assert_eq!(report["error"]["code"], "limit_frames", "an hour of one frame: {report}");
    assert_eq!(report["sampling_contract"], 2);
}

#[test]
fn windows_are_written_as_webvtt() {
    let out = tempfile::tempdir().unwrap();
    let (path, folder) = (clip("h264_refresh").display().to_string(), out.path().display().to_string());
    let ran = quick(&["caption", &path, "--window", "4s", "--out", &folder]).exits(0);
    let name = clip("h264_refresh").file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(listing(out.path()), [format!("{name}.json"), format!("{name}.vtt")]);
    let text = std::fs::read_to_string(out.path().join(format!("{name}.vtt"))).unwrap();
    let mut blocks = text.trim_end().split("\n\n");
    assert_eq!(blocks.next(), Some("WEBVTT"));
    let timings: Vec<_> = blocks.map(|cue| cue.lines().next().unwrap()).collect();
    let expected =
        ["00:00:00.000 --> 00:00:04.000", "00:00:04.000 --> 00:00:08.000", "00:00:08.000 --> 00:00:09.000"];
    assert_eq!(timings, expected);
    for range in ["0:00-0:04", "0:04-0:08", "0:08-0:09"] {
        assert!(ran.out.contains(range), "{range}: {}", ran.out);
    }
}

#[test]
fn the_cue_of_an_image_has_a_duration() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("a.png");
    image::RgbImage::new(9, 7).save(&picture).unwrap();
    let (path, out) = (picture.display().to_string(), folder.path().join("out").display().to_string());
    quick(&["caption", &path, "--window", "4s", "--out", &out]).exits(0);
    let text = std::fs::read_to_string(folder.path().join("out/a.png.vtt")).unwrap();
    assert!(text.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:00.001\n"), "{text}");
}

/// The model was trained with up to 8 frames.
#[test]
fn accepts_more_frames_than_were_trained() {
    let path = clip("h264_refresh").display().to_string();
    let ran = quick(&["caption", &path, "--json", "--fps", "4"]).exits(0);
    assert_eq!(ranges(&ran.report())[0].2.len(), 36);
    for (options, hint) in [(&["--json"][..], true), (&[], true), (&["--window", "2s"], false)] {
        let ran = quick(&[&["caption", &path, "--fps", "4", "--max-frames", "8"], options].concat());
        assert_eq!(ran.err.contains("hint: cut long videos with --window"), hint, "{ran:?}");
        let ran = ran.exits(i32::from(hint));
        if options == ["--json"] {
            assert_eq!(ran.report()["error"]["code"], "limit_frames");
        } else if hint {
            let said = format!("error[limit_frames]: {path}: more frames than the 8 that one answer may use");
            assert_eq!(ran.errors(), [said]);
        }
    }
}

#[test]
fn an_empty_range_is_an_error() {
    let path = clip("short").display().to_string();
    for command in [&["caption", &path][..], &["ask", &path, "--prompt", "<video>"]] {
        let ran = flamingo(&[command, &["--start", "100"]].concat()).exits(1);
        let said = format!("error[no_frames]: {path}: no frame lies in the sampled range");
        assert_eq!(ran.errors(), [said]);
    }
}
