//! Truncated and damaged files give the decodable frames and a warning.

use flamingo::video::{FrameSampling, Video, VideoLimits, Warning};
use support::clips::{clip, write};

/// Cuts a clip to a share of its bytes, samples it at 2 frames per second, and compares with the whole clip's
/// frames.
fn check(name: &str, share: f64, at_least: usize) {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(clip(name)).unwrap();
    let cut = write(directory.path(), "cut", &whole[..(whole.len() as f64 * share) as usize]);
    let limits = VideoLimits::default();
    let sampling = FrameSampling::fps(2.0);
    let video = Video::open(&cut, &limits).unwrap();
    let mut frames = video.frames(&sampling).unwrap();
    let found: Vec<_> = frames.by_ref().map(|f| f.unwrap()).collect();
    let all: Vec<_> =
        Video::open(clip(name), &limits).unwrap().frames(&sampling).unwrap().map(|f| f.unwrap()).collect();
    assert!(found.len() >= at_least && found.len() < all.len(), "{name}: {} of {}", found.len(), all.len());
    // The last frame may be incomplete.
    for (found, whole) in found[..found.len() - 1].iter().zip(&all) {
        assert!(found == whole, "{name}: another frame at {} s", found.pts);
    }
    let summary = frames.summary();
    let is_broken_tail = |w: &Warning| matches!(w, Warning::BrokenTail { .. });
    assert!(summary.warnings.iter().any(is_broken_tail), "{name}: {:?}", summary.warnings);
    summary.warnings.iter().for_each(|w| assert!(!w.to_string().is_empty()));
}

#[test]
fn truncated_files() {
    check("faststart", 0.6, 12);
    check("h264_open_gop", 0.5, 8);
    check("vp9", 0.7, 8);
    check("mpeg4_no_pts", 0.6, 5);
}

/// A transport stream does not declare its length, but it ends with a whole packet.
#[test]
fn truncated_transport_stream() {
    check("h264_ts", 0.4, 20);
}

/// A transport stream that begins in the middle of a GOP, as recordings do. Time zero is the first picture
/// that decodes.
#[test]
fn stream_that_begins_within_a_gop() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(clip("late_start")).unwrap();
    let packets = whole.len() / 188;
    let cut = write(directory.path(), "cut.ts", &whole[packets * 3 / 10 * 188..]);
    let video = Video::open(&cut, &VideoLimits::default()).unwrap();
    let fast: Vec<_> = video.frames(&FrameSampling::fps(1.0)).unwrap().map(|f| f.unwrap()).collect();
    let full: Vec<_> =
        video.frames_by_full_decode(&FrameSampling::fps(1.0)).unwrap().map(|f| f.unwrap()).collect();
    assert!(fast.len() > 3 && fast[0].pts == 0.0, "{}", fast.len());
    assert!(fast == full);
}

#[test]
fn size_change_adds_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let both = [std::fs::read(clip("big")).unwrap(), std::fs::read(clip("small")).unwrap()].concat();
    let path = write(directory.path(), "both.ts", &both);
    let video = Video::open(&path, &VideoLimits::default()).unwrap();
    let mut frames = video.frames(&FrameSampling::fps(1.0)).unwrap();
    let sizes: Vec<_> = frames.by_ref().map(|f| f.unwrap().image.dimensions()).collect();
    assert_eq!(sizes, [[(384, 216); 4], [(160, 90); 4]].concat());
    let changed = |w: &Warning| matches!(w, Warning::SizeChanged { width: 160, height: 90, .. });
    assert!(frames.summary().warnings.iter().any(changed), "{:?}", frames.summary());
}

/// Files with random changed bytes give frames or an error, never a panic or an endless loop.
#[test]
fn damaged_files_do_not_panic() {
    let directory = tempfile::tempdir().unwrap();
    let limits = VideoLimits { max_decoded_frames: 2_000, max_duration_s: 3_600.0, ..VideoLimits::default() };
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut opened = 0;
    for name in ["short", "rotated_90", "vp9", "mpeg4_no_pts", "small", "av1_aom"] {
        let whole = std::fs::read(clip(name)).unwrap();
        for round in 0..6 {
            let mut bytes = whole.clone();
            for _ in 0..1 << (2 * round) {
                // Half of the changes are in the head, which holds the structure.
                let region = if random(2) == 0 { 4096.min(bytes.len()) } else { bytes.len() };
                let at = random(region);
                bytes[at] = random(256) as u8;
            }
            let path = write(directory.path(), &format!("{name}-{round}"), &bytes);
            let Ok(video) = Video::open(&path, &limits) else { continue };
            opened += 1;
            let Ok(frames) = video.frames(&FrameSampling::fps(2.0)) else { continue };
            assert!(frames.count() < 10_000);
        }
    }
    assert!(opened > 0, "no damaged file was opened, so the test proves nothing");
}

/// Whole files of every kind give no warning.
#[test]
fn whole_files_have_no_warning() {
    let clips = [
        "h264",
        "h264_ntsc",
        "h264_open_gop",
        "h264_refresh",
        "h264_interlaced",
        "h264_ts",
        "hevc",
        "hevc_closed_10bit",
        "hevc_layers",
        "vp9",
        "vp8",
        "av1",
        "av1_aom",
        "mpeg4",
        "mpeg2",
        "mjpeg",
        "vfr",
        "rotated_90",
        "edit_list",
        "late_start",
        "short",
        "one_frame",
        "three_streams",
        "prores",
        "dnxhd",
        "mpeg_ps",
        "mpeg1_ps",
        "h263",
        "flv1",
        "h264_flv",
        "theora",
        "wmv1",
        "wmv2",
        "animated",
    ];
    for name in clips {
        let video = Video::open(clip(name), &VideoLimits::default()).unwrap();
        let mut frames = video.frames(&FrameSampling::fps(4.0)).unwrap();
        let count = frames.by_ref().inspect(|frame| assert!(frame.is_ok(), "{frame:?}")).count();
        assert!(count > 0, "{name}");
        assert_eq!(frames.summary().warnings, [], "{name}");
    }
}
