//! Sampled frames are bit-equal to those of a full decode, and equal the frames of FFmpeg's own tools.

use flamingo::video::{Frame, FrameSampling, Summary, Video, VideoLimits};
use support::clips::{clip, run};

use crate::pictures::luma_difference;

fn frames(video: &Video, sampling: &FrameSampling, full: bool) -> (Vec<Frame>, Summary) {
    let mut frames =
        if full { video.frames_by_full_decode(sampling).unwrap() } else { video.frames(sampling).unwrap() };
    let all = frames.by_ref().map(|frame| frame.unwrap()).collect();
    (all, frames.summary())
}

fn samplings() -> Vec<FrameSampling> {
    vec![
        FrameSampling::fps(1.0),
        FrameSampling::fps(3.7),
        FrameSampling::fps(0.4),
        FrameSampling::fps(1.0).within(2.3, Some(6.1)),
        FrameSampling::uniform(5),
        FrameSampling::fps(500.0),
    ]
}

/// Share of packets that is decoded at 1 frame per second.
enum DecodedShare {
    /// At most this share.
    AtMost(f64),
    /// Every packet.
    All,
}

fn check(name: &str, decoded: DecodedShare) {
    check_against_full_decode(name, decoded);
    check_against_ffmpeg(name);
}

fn check_against_full_decode(name: &str, decoded: DecodedShare) {
    let video = Video::open(clip(name), &VideoLimits::default()).unwrap();
    for sampling in samplings() {
        let (fast, summary) = frames(&video, &sampling, false);
        let (full, full_summary) = frames(&video, &sampling, true);
        assert_eq!(fast.len(), full.len(), "{name} {sampling:?}");
        for (fast, full) in fast.iter().zip(&full) {
            assert_eq!(fast.pts, full.pts, "{name} {sampling:?}");
            assert!(fast.image == full.image, "{name} {sampling:?}: other pixels at {} s", fast.pts);
        }
        assert_eq!(summary.picked, fast.len() as u64, "{name}");
        assert_eq!(summary.warnings, full_summary.warnings, "{name} {sampling:?}");
    }
    let (_, summary) = frames(&video, &FrameSampling::fps(1.0), false);
    let share = summary.decoded as f64 / (summary.decoded + summary.skipped) as f64;
    match decoded {
        DecodedShare::AtMost(most) => {
            assert!(share <= most, "{name}: {share:.3} of all packets were decoded")
        }
        DecodedShare::All => assert!(share > 0.8, "{name}: {share:.3} of all packets were decoded"),
    }
}

/// Compares the frames at 1 per second with the contract applied to the times of ffprobe and the pictures of
/// ffmpeg. ffmpeg uses another colour conversion, so the pictures are close, not equal.
fn check_against_ffmpeg(name: &str) {
    let path = clip(name);
    let video = Video::open(&path, &VideoLimits::default()).unwrap();
    let path = path.to_str().unwrap();
    let entries =
        ["-v", "error", "-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time"];
    let listed = run("ffprobe", &[&entries[..], &["-of", "csv=p=0", path]].concat()).stdout;
    let listed: Vec<f64> = String::from_utf8(listed)
        .unwrap()
        .lines()
        // Side data of a frame adds empty lines.
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.trim_end_matches(',').parse().unwrap_or_else(|_| panic!("{name}: ffprobe says {line:?}"))
        })
        .collect();
    let zero = listed[0];
    let (ours, _) = frames(&video, &FrameSampling::fps(1.0), false);
    // `shown.rs` checks the end.
    let end = video.info().duration;
    let shown = |k: u32| listed.iter().rposition(|t| t - zero <= f64::from(k) + 1e-5).unwrap();
    let mut expected: Vec<usize> =
        (0..).take_while(|k| *k == 0 || f64::from(*k) < end - 1e-5).map(shown).collect();
    expected.dedup();
    assert_eq!(ours.len(), expected.len(), "{name}");
    let arguments = ["-nostdin", "-v", "error", "-i", path, "-map", "0:v:0", "-vsync", "passthrough"];
    let flags = ["-sws_flags", "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"];
    let raw =
        run("ffmpeg", &[&arguments[..], &flags, &["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]].concat())
            .stdout;
    for (ours, index) in ours.iter().zip(expected) {
        assert!(
            (ours.pts - (listed[index] - zero)).abs() < 2e-5,
            "{name}: {} for {}",
            ours.pts,
            listed[index]
        );
        let size = ours.image.as_raw().len();
        assert_eq!(raw.len() % size, 0, "{name}: ffmpeg's pictures have another size");
        let theirs = &raw[index * size..][..size];
        let mean = luma_difference(ours.image.as_raw(), theirs);
        assert!(mean < 2.0, "{name}: the picture at {} s is {mean:.2} off", ours.pts);
    }
}

#[test]
fn h264() {
    check("h264", DecodedShare::AtMost(0.45));
    // The frame on the screen is the last of its GOP.
    check("h264_ntsc", DecodedShare::AtMost(0.7));
    check("h264_ts", DecodedShare::AtMost(0.7));
    check("h264_interlaced", DecodedShare::AtMost(0.8));
}

#[test]
fn h264_without_idr_pictures() {
    check("h264_open_gop", DecodedShare::AtMost(0.8));
    check("h264_refresh", DecodedShare::AtMost(1.0));
}

#[test]
fn hevc() {
    check("hevc", DecodedShare::AtMost(0.6));
    check("hevc_closed_10bit", DecodedShare::AtMost(0.6));
    check("hevc_layers", DecodedShare::AtMost(0.7));
}

#[test]
fn vp9_and_vp8() {
    check("vp9", DecodedShare::AtMost(0.9));
    check("vp8", DecodedShare::AtMost(1.0));
}

#[test]
fn av1() {
    check("av1", DecodedShare::AtMost(0.9));
    check("av1_aom", DecodedShare::AtMost(1.0));
}

#[test]
fn mpeg() {
    check("mpeg4", DecodedShare::AtMost(0.5));
    check("mpeg2", DecodedShare::AtMost(0.5));
    check("mjpeg", DecodedShare::AtMost(0.1));
}

#[test]
fn older_and_studio_formats() {
    check("prores", DecodedShare::AtMost(0.1));
    check("dnxhd", DecodedShare::AtMost(0.1));
    check("mpeg_ps", DecodedShare::AtMost(0.5));
    check("mpeg1_ps", DecodedShare::AtMost(0.6));
    check("h263", DecodedShare::AtMost(1.0));
    check("flv1", DecodedShare::AtMost(1.0));
    check("h264_flv", DecodedShare::AtMost(0.6));
    check("theora", DecodedShare::AtMost(1.0));
    check("wmv1", DecodedShare::AtMost(1.0));
    check("wmv2", DecodedShare::AtMost(1.0));
    check("divx3", DecodedShare::AtMost(1.0));
}

#[test]
fn missing_pts_need_a_full_decode() {
    // ffprobe has no times for this clip. `contract.rs` checks them against the frame rate.
    check_against_full_decode("mpeg4_no_pts", DecodedShare::All);
}

#[test]
fn unusual_files() {
    check("vfr", DecodedShare::AtMost(0.8));
    check("rotated_90", DecodedShare::AtMost(0.6));
    check("rotated_180", DecodedShare::AtMost(0.6));
    check("edit_list", DecodedShare::AtMost(0.6));
    check("negative_pts", DecodedShare::AtMost(0.5));
    check("late_start", DecodedShare::AtMost(0.6));
    check("short", DecodedShare::AtMost(0.2));
    check("one_frame", DecodedShare::AtMost(1.0));
}

#[test]
fn decoder_threads_do_not_change_frames() {
    let path = clip("h264");
    let limits = VideoLimits { decoder_threads: 2, ..VideoLimits::default() };
    let (one, two) =
        (Video::open(&path, &VideoLimits::default()).unwrap(), Video::open(&path, &limits).unwrap());
    let sampling = FrameSampling::fps(2.3);
    assert!(frames(&one, &sampling, false).0 == frames(&two, &sampling, false).0);
}
