//! Files whose times cannot be true: the frames are those of the file with true times, with a warning that names the
//! place.

use std::path::{Path, PathBuf};

use flamingo::video::{Frame, FrameSampling, Video, VideoLimits, Warning};
use support::clips::{clip, run, write};

fn frames(path: &Path) -> (Vec<Frame>, Vec<Warning>) {
    let video = Video::open(path, &VideoLimits::default()).unwrap();
    let mut frames = video.frames(&FrameSampling::fps(2.0)).unwrap();
    let all = frames.by_ref().map(|frame| frame.unwrap()).collect();
    (all, frames.summary().warnings)
}

/// Checks that a file shows the pictures of other files, one after the other, at the moments of a video without gaps.
fn check_pictures(name: &str, path: &Path, parts: &[PathBuf]) -> Vec<Warning> {
    let (found, warnings) = frames(path);
    let mut expected = Vec::new();
    let mut start = 0.0;
    for part in parts {
        expected.extend(frames(part).0.into_iter().map(|frame| (start + frame.pts, frame.image)));
        start += Video::open(part, &VideoLimits::default()).unwrap().info().duration;
    }
    let times = || found.iter().map(|frame| frame.pts).collect::<Vec<_>>();
    assert_eq!(found.len(), expected.len(), "{name}: {:?}", times());
    for (found, (pts, image)) in found.iter().zip(&expected) {
        assert!((found.pts - pts).abs() < 1e-3, "{name}: {pts} is not in {:?}", times());
        assert!(found.image == *image, "{name}: another picture at {pts} s");
    }
    warnings
}

/// Rewrites a clip without encoding it.
fn remux(directory: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let path = directory.join(name);
    let (input, output) = (clip(source).display().to_string(), path.display().to_string());
    run("ffmpeg", &[&["-y", "-v", "error", "-i", &input, "-c", "copy"], options, &[&output]].concat());
    path
}

/// Adds seconds to the pts and dts of the `n`th picture of a transport stream.
fn shift_picture(stream: &mut [u8], n: usize, seconds: i64) {
    let video = |packet: &[u8]| packet[0] == 0x47 && packet[1] & 0x5f == 0x41 && packet[2] == 0;
    let packet = stream.chunks_exact_mut(188).filter(|packet| video(packet)).nth(n).expect("no such picture");
    // After the adaptation field: start code, stream id, length, flags, header length.
    let pes = if packet[3] & 0x20 > 0 { 5 + usize::from(packet[4]) } else { 4 };
    assert_eq!(packet[pes..][..3], [0, 0, 1]);
    let stamps = if packet[pes + 7] >> 6 == 3 { 2 } else { 1 };
    for stamp in packet[pes + 9..].chunks_exact_mut(5).take(stamps) {
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| i64::from(stamp[i]));
        let ticks = (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1;
        let ticks = (ticks + seconds * 90_000).rem_euclid(1 << 33);
        stamp[0] = (a & 0xf1 | (ticks >> 30) << 1) as u8;
        stamp[1] = (ticks >> 22) as u8;
        stamp[2] = ((ticks >> 15) << 1 | 1) as u8;
        stamp[3] = (ticks >> 7) as u8;
        stamp[4] = (ticks << 1 | 1) as u8;
    }
}

#[test]
fn outliers_of_a_file_with_an_index() {
    let directory = tempfile::tempdir().unwrap();
    // Clip, packet, its time in decoding order, seconds.
    for (name, source, n, by) in [
        ("ahead.mp4", "h264", 50, 7_200),
        ("mpeg4.mp4", "mpeg4", 30, 5_000),
        ("refresh.mp4", "h264_refresh", 77, 900),
    ] {
        let filter = format!("setts=pts=PTS+eq(N\\,{n})*{by}/TB");
        let path =
            remux(directory.path(), name, source, &["-bsf:v", &filter, "-avoid_negative_ts", "disabled"]);
        let warnings = check_pictures(name, &path, &[clip(source)]);
        let rate = if source == "h264" { 30.0 } else { 25.0 };
        let [Warning::WrongTime { at, by: change }] = warnings[..] else { panic!("{name}: {warnings:?}") };
        assert!(
            (at - f64::from(n) / rate).abs() < 0.2 && (change + f64::from(by)).abs() < 0.2,
            "{name}: {warnings:?}"
        );
    }
}

#[test]
fn outliers_of_a_transport_stream() {
    let directory = tempfile::tempdir().unwrap();
    for (name, source, n, by) in [
        ("ahead.ts", "big", 40, 43_200),
        ("behind.ts", "mpeg2", 101, -3_600),
        ("ntsc.ts", "h264_ts", 333, 5_400),
        ("first.ts", "small", 0, 3),
        ("first_behind.ts", "big", 0, -3_600),
    ] {
        let whole = remux(directory.path(), "whole.ts", source, &["-output_ts_offset", "5000"]);
        let mut bytes = std::fs::read(&whole).unwrap();
        shift_picture(&mut bytes, n, by);
        let path = write(directory.path(), name, &bytes);
        let warnings = check_pictures(name, &path, &[whole]);
        assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
        if name != "first_behind.ts" {
            let rate = if source == "h264_ts" { 30_000.0 / 1001.0 } else { 25.0 };
            let Warning::WrongTime { at, by: change } = warnings[0] else { panic!("{name}: {warnings:?}") };
            let near = (at - n as f64 / rate).abs() < 0.2 && (change + by as f64).abs() < 0.2;
            assert!(near, "{name}: {warnings:?}");
        }
    }
}

/// Transport streams that were joined end to end, as `cat` does.
#[test]
fn joined_transport_streams() {
    let directory = tempfile::tempdir().unwrap();
    let offset = |source: &str, seconds: &str| {
        let name = format!("{source}_{seconds}.ts");
        remux(directory.path(), &name, source, &["-muxdelay", "0", "-output_ts_offset", seconds])
    };
    let restart = |at: f64| move |w: &Warning| matches!(w, Warning::TimesRestart { at: found, .. } if (found - at).abs() < 0.1);
    let jump = |at: f64| move |w: &Warning| matches!(w, Warning::TimesJump { at: found, .. } if (found - at).abs() < 0.1);
    let check = |name: &str, parts: &[PathBuf], expected: &[&dyn Fn(&Warning) -> bool]| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| std::fs::read(part).unwrap()).collect();
        let path = write(directory.path(), name, &bytes);
        let mut warnings = check_pictures(name, &path, parts);
        warnings.retain(|w| !matches!(w, Warning::SizeChanged { .. }));
        let same = warnings.len() == expected.len() && warnings.iter().zip(expected).all(|(w, is)| is(w));
        assert!(same, "{name}: {warnings:?}");
    };
    check("twice.ts", &[clip("big"), clip("big")], &[&restart(4.0)]);
    check("thrice.ts", &[clip("mpeg2"), clip("mpeg2"), clip("mpeg2")], &[&restart(9.0), &restart(18.0)]);
    check("overlap.ts", &[offset("big", "20"), offset("small", "21.5")], &[&restart(4.0)]);
    check("jump.ts", &[offset("big", "0"), offset("big", "3604")], &[&jump(4.0)]);
    check("back.ts", &[offset("mpeg2", "500"), offset("mpeg2", "40")], &[&restart(9.0)]);
}

/// A recording with a pause is no error: the picture before it stays.
#[test]
fn pauses_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (name, source, n, ticks) in [
        ("pause.mkv", "h264", 150, 1_000),
        ("pause.mp4", "mpeg4", 100, 12_800),
        ("pause.webm", "vp8", 77, 1_000),
    ] {
        let filter = format!("setts=ts=TS+gte(N\\,{n})*{}", 3_600 * ticks);
        let path = remux(directory.path(), name, source, &["-bsf:v", &filter]);
        let video = Video::open(&path, &VideoLimits::default()).unwrap();
        assert!(video.info().duration > 3_600.0, "{name}: {:?}", video.info());
        let mut frames = video.frames(&FrameSampling::fps(0.01)).unwrap();
        assert_eq!(frames.by_ref().map(|f| f.unwrap().moments.len()).sum::<usize>(), 37, "{name}");
        assert_eq!(frames.summary().warnings, [], "{name}");
    }
}

/// An edit list leaves out stored packets: nothing is missing.
#[test]
fn edit_lists_give_no_warning() {
    let directory = tempfile::tempdir().unwrap();
    for (source, from, length) in [("h264", "3.3", "5.1"), ("hevc", "2.9", "4"), ("mpeg4", "1.7", "6.2")] {
        let (input, path) =
            (clip(source).display().to_string(), directory.path().join(format!("{source}.mp4")));
        let output = path.display().to_string();
        run("ffmpeg", &["-v", "error", "-ss", from, "-i", &input, "-t", length, "-c", "copy", &output]);
        let (frames, warnings) = frames(&path);
        assert!(frames.len() >= 8 && warnings.is_empty(), "{source}: {warnings:?}");
    }
}
