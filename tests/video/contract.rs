//! The sampling contract on real files: the time of the frame on the screen at each moment, per clip.

use flamingo::video::{FrameSampling, Video, VideoLimits, Warning};
use support::clips::clip;

/// Returns the pts of the frame of each moment.
pub fn shown(video: &Video, sampling: &FrameSampling) -> Vec<f64> {
    let frames = video.frames(sampling).unwrap().map(|frame| frame.unwrap());
    frames.flat_map(|frame| vec![frame.pts; frame.moments.len()]).collect()
}

fn check(name: &str, sampling: &FrameSampling, expected: &[f64]) {
    let video = Video::open(clip(name), &VideoLimits::default()).unwrap();
    let times = shown(&video, sampling);
    let same = times.len() == expected.len() && times.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(same, "{name} {sampling:?}: {times:?}, expected {expected:?}");
}

#[test]
fn samples_expected_times() {
    let fps = FrameSampling::fps;
    check("h264", &fps(0.25), &[0.0, 4.0, 8.0, 12.0]);
    check("h264_ntsc", &fps(1.0).within(0.0, Some(4.0)), &[0.0, 0.967633, 1.968633, 2.969633]);
    check("h264_ntsc", &fps(1.0).within(35.0, Some(38.0)), &[34.968267, 35.969267, 36.970267]);
    check("negative_pts", &fps(0.05), &[0.0, 19.986633]);
    check("late_start", &fps(0.2), &[0.0, 5.0, 10.0]);
    check("short", &fps(1.0), &[0.0]);
    check("one_frame", &fps(1.0), &[0.0]);
    check("one_frame", &FrameSampling::uniform(7), &[0.0]);
    check("mpeg4_no_pts", &fps(1.0), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    // The last frame is at 13.967 s; frame 209 of 30 per second is on the screen at 6.983 s.
    check("h264", &FrameSampling::uniform(3), &[0.0, 6.966667, 13.966667]);
}

#[test]
fn samples_variable_frame_rate() {
    // Every seventh frame of 30 per second (0.233 s apart), all frames of 3..4 s, no frame in 8..11.3 s.
    let gap = 7.933333;
    let times = [0.0, 0.933333, 1.866667, 3.0, 4.0, 4.9, 5.833333, 7.0, gap, gap, gap, gap, 11.9];
    check("vfr", &FrameSampling::fps(1.0).within(0.0, Some(13.0)), &times);
    // The frame before the gap stays for ten moments.
    let times = [[gap; 10].as_slice(), &[11.433333]].concat();
    check("vfr", &FrameSampling::fps(3.0).within(8.2, Some(11.6)), &times);
    let video = Video::open(clip("vfr"), &VideoLimits::default()).unwrap();
    let frames = video.frames(&FrameSampling::fps(3.0).within(8.2, Some(11.6))).unwrap();
    let moments: Vec<_> = frames.map(|frame| frame.unwrap().moments.len()).collect();
    assert_eq!(moments, [10, 1], "each picture is decoded once");
}

#[test]
fn info_describes_the_video() {
    let open = |name: &str| Video::open(clip(name), &VideoLimits::default()).unwrap();
    let video = open("h264");
    let info = video.info();
    assert_eq!((info.container.as_str(), info.codec.as_str()), ("mov", "h264"));
    assert_eq!((info.width, info.height, info.frames), (320, 240, 420));
    assert!((info.duration - 14.0).abs() < 1e-6 && (info.average_fps - 30.0).abs() < 1e-6, "{info:?}");
    let rotated = open("rotated_90");
    assert_eq!((rotated.info().width, rotated.info().height), (240, 320));
    let hidden = open("negative_pts");
    assert!(hidden.info().start_pts >= 0.0 && hidden.info().frames < 1199, "{:?}", hidden.info());
    assert!(open("late_start").info().start_pts > 3600.0);
}

#[test]
fn max_frames_adds_a_warning() {
    let video = Video::open(clip("h264"), &VideoLimits::default()).unwrap();
    let sampling = FrameSampling::Fps { fps: 1.0, start: 0.0, end: None, max_frames: Some(4) };
    let mut frames = video.frames(&sampling).unwrap();
    assert_eq!(frames.by_ref().count(), 4);
    assert_eq!(frames.summary().warnings, [Warning::LeftOut { frames: 10 }]);
}

#[test]
fn frames_are_decoded_on_demand() {
    let video = Video::open(clip("h264"), &VideoLimits::default()).unwrap();
    let mut frames = video.frames(&FrameSampling::fps(1.0)).unwrap();
    assert_eq!(frames.summary().decoded, 0);
    frames.next().unwrap().unwrap();
    let after_one = frames.summary().decoded;
    frames.by_ref().for_each(drop);
    assert!(after_one > 0 && after_one * 5 < frames.summary().decoded, "{after_one}");
}

#[test]
fn several_threads_sample_one_video() {
    let video = Video::open(clip("mpeg4"), &VideoLimits::default()).unwrap();
    let count = |fps: f64| video.frames(&FrameSampling::fps(fps)).unwrap().count();
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = [1.0, 2.0, 5.0].map(|fps| scope.spawn(move || count(fps))).into();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(counts, [12, 24, 60]);
}

#[test]
fn videos_and_frames_are_send() {
    fn check<T: Send>() {}
    check::<Video>();
    check::<flamingo::video::Frames>();
}
