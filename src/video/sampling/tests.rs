//! Tables of cases of the sampling contract.

use super::*;

/// Selects from frames at `times`, the last of which stays for `stays` seconds, and returns each frame's index once
/// per moment.
fn select(sampling: &FrameSampling, times: &[f64], stays: f64, tick: f64) -> Vec<usize> {
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_by(f64::total_cmp);
    let interval = gaps.get(gaps.len() / 2).copied().unwrap_or(stays);
    let end = times.last().map_or(0.0, |last| last + stays);
    let selection = sampling.select(&VideoTimes { frames: times, end, interval, tick }).unwrap();
    let indices: Vec<usize> = selection.frames.iter().map(|frame| frame.index).collect();
    assert!(indices.windows(2).all(|pair| pair[0] < pair[1]), "{sampling:?}: each frame once");
    selection.frames.iter().flat_map(|f| vec![f.index; f.moments.len()]).collect()
}

fn check(name: &str, sampling: FrameSampling, times: &[f64], stays: f64, expected: &[usize]) {
    assert_eq!(select(&sampling, times, stays, 0.0), expected, "{name}");
}

fn constant(rate: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64 / rate).collect()
}

#[test]
fn selects_by_rate() {
    let fps = FrameSampling::fps;
    check("one per second", fps(1.0), &constant(25.0, 77), 0.04, &[0, 25, 50, 75]);
    check("the end is no moment", fps(1.0), &constant(25.0, 75), 0.04, &[0, 25, 50]);
    let ntsc: Vec<f64> = (0..100).map(|i| i as f64 * 1001.0 / 30000.0).collect();
    check("29.97: the frame on the screen", fps(1.0), &ntsc, 1001.0 / 30000.0, &[0, 29, 59, 89]);
    check("29.97: one more", fps(1.0), &ntsc[..60], 1001.0 / 30000.0, &[0, 29, 59]);
    check("half a frame per second", fps(0.5), &constant(10.0, 45), 0.1, &[0, 20, 40]);
    check("thirds do not slip by rounding", fps(3.0), &constant(3.0, 5), 1.0 / 3.0, &[0, 1, 2, 3, 4]);
    check("as fast as the video", fps(29.0), &constant(29.0, 7), 1.0 / 29.0, &[0, 1, 2, 3, 4, 5, 6]);
    check("faster: frames stay", fps(10.0), &constant(4.0, 3), 0.25, &[0, 0, 0, 1, 1, 2, 2, 2]);
    check("variable", fps(1.0), &[0.0, 0.4, 3.2, 3.3, 4.0, 6.5], 0.1, &[0, 1, 1, 1, 4, 4, 4]);
    check("under a second", fps(1.0), &constant(30.0, 11), 1.0 / 30.0, &[0]);
    check("a single frame", fps(1.0), &[0.0], 0.0, &[0]);
    check("a single frame that stays", fps(1.0), &[0.0], 3.5, &[0, 0, 0, 0]);
    check("no frames", fps(1.0), &[], 0.0, &[]);
}

#[test]
fn frames_of_rounded_times_are_selected_once() {
    let check = |rate: f64, tick: f64| {
        let times: Vec<f64> = constant(rate, 90).iter().map(|t| (t / tick).round() * tick).collect();
        let expected: Vec<usize> = (0..90).collect();
        assert_eq!(select(&FrameSampling::fps(rate), &times, 0.4 / rate, tick), expected, "{rate}");
    };
    for rate in [12.0, 24.0, 30.0, 60.0] {
        check(rate, 1e-3);
        check(rate, 1.0 / 90_000.0);
    }
}

#[test]
fn selects_within_ranges() {
    let times = constant(10.0, 60);
    let within = |from: f64, to: Option<f64>| FrameSampling::fps(1.0).within(from, to);
    check("from the middle", within(1.55, None), &times, 0.1, &[15, 25, 35, 45, 55]);
    check("end is exclusive", within(0.0, Some(3.0)), &times, 0.1, &[0, 10, 20]);
    check("the moment is before the end", within(0.55, Some(1.56)), &times, 0.1, &[5, 15]);
    check("start within the last frame", within(5.95, None), &times, 0.1, &[59]);
    check("start beyond the video", within(6.0, None), &times, 0.1, &[]);
    check("in the middle of a picture", within(5.0, Some(8.0)), &[0.0, 2.0, 60.0], 0.1, &[1, 1, 1]);
    check("uniform beyond the video", FrameSampling::uniform(3).within(7.0, None), &times, 0.1, &[]);
    let uniform = FrameSampling::uniform(3).within(1.0, Some(2.05));
    check("uniform in a range", uniform, &times, 0.1, &[10, 15, 20]);
}

#[test]
fn selects_uniformly() {
    let times = constant(10.0, 41);
    check("both ends", FrameSampling::uniform(5), &times, 0.1, &[0, 10, 20, 30, 40]);
    check("one is the middle", FrameSampling::uniform(1), &times, 0.1, &[20]);
    check("two are the ends", FrameSampling::uniform(2), &times, 0.1, &[0, 40]);
    check("between frames: the one shown", FrameSampling::uniform(4), &times, 0.1, &[0, 13, 26, 40]);
    let repeated = [0, 0, 0, 0, 1, 1, 1, 1, 2];
    check("more than there are: frames stay", FrameSampling::uniform(9), &constant(7.0, 3), 0.1, &repeated);
    check("a last frame that stays", FrameSampling::uniform(4), &[0.0, 1.0, 2.0], 8.0, &[0, 2, 2, 2]);
    check("an image", FrameSampling::uniform(4), &[0.0], 0.0, &[0]);
}

#[test]
fn max_frames_counts_left_out_moments() {
    let sampling = FrameSampling::Fps { fps: 2.0, start: 0.0, end: None, max_frames: Some(3) };
    let times = VideoTimes { frames: &[0.0, 0.8], end: 15.5, interval: 0.8, tick: 0.0 };
    let selection = sampling.select(&times).unwrap();
    let lengths: Vec<_> = selection.frames.iter().map(|f| (f.index, f.moments.len())).collect();
    assert_eq!((lengths, selection.left_out), (vec![(0, 2), (1, 1)], 28));
}

#[test]
fn moments_split_at_times() {
    let mut moments = Moments { start: 0.5, rate: 3.0, indices: 1..10 };
    let taken = moments.take_before(0.5 + 4.0 / 3.0);
    assert_eq!((taken.indices, moments.indices.clone()), (1..4, 4..10));
    assert!(moments.take_before(0.0).is_empty() && moments.first() == Some(0.5 + 4.0 / 3.0));
    assert_eq!(moments.take_before(1e9).len(), 6);
    assert!(moments.is_empty() && moments.first().is_none());
}

#[test]
fn every_second_moment_twice_is_every_fourth() {
    let all = Moments { start: 0.5, rate: 3.0, indices: 3..14 };
    let fourth = all.every(4);
    assert_eq!((fourth.first(), fourth.len()), (Some(0.5 + 4.0 / 3.0), 3), "numbers 4, 8 and 12");
    assert_eq!(fourth, all.every(2).every(2));
    assert_eq!(all.every(1), all);
    assert!(Moments { indices: 5..8, ..all }.every(4).is_empty());
}

#[test]
fn rejects_implausible_moments() {
    let valid = |start: f64, rate: f64, indices: Range<u64>| Moments { start, rate, indices }.is_valid();
    assert!(valid(0.0, 1.0, 0..1));
    let reversed = Range { start: 2, end: 1 };
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    for (start, rate) in [(-1.0, 1.0), (nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, nan), (0.0, infinite)] {
        assert!(!valid(start, rate, 0..1), "{start} {rate}");
    }
    assert!(!valid(0.0, 1.0, 3..3) && !valid(0.0, 1.0, reversed) && !valid(0.0, 1.0, 0..u64::MAX));
}

#[test]
fn rejects_invalid_samplings() {
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(FrameSampling::fps(fps).check(), Err(SamplingError::Fps(_))), "{fps}");
    }
    for start in [-0.5, f64::NAN, f64::INFINITY] {
        let sampling = FrameSampling::uniform(3).within(start, None);
        assert!(matches!(sampling.check(), Err(SamplingError::Start(_))), "{start}");
    }
    for end in [2.0, 1.0, f64::NAN, f64::INFINITY] {
        let sampling = FrameSampling::fps(3.0).within(2.0, Some(end));
        assert!(matches!(sampling.check(), Err(SamplingError::Range { .. })), "{end}");
    }
    assert_eq!(FrameSampling::uniform(0).check(), Err(SamplingError::NoFrames));
    assert_eq!(FrameSampling::uniform(usize::MAX).check(), Err(SamplingError::Count(usize::MAX)));
    let times = VideoTimes { frames: &[0.0], end: 1e5, interval: 1.0, tick: 0.0 };
    assert!(matches!(FrameSampling::fps(1e9).select(&times), Err(SamplingError::TooMany { .. })));
}

#[test]
fn reads_json() {
    let read = |text| serde_json::from_str::<FrameSampling>(text);
    assert_eq!(read(r#"{"fps": {"fps": 2.0}}"#).unwrap(), FrameSampling::fps(2.0));
    assert_eq!(
        read(r#"{"uniform": {"n": 8, "start": 1.5}}"#).unwrap(),
        FrameSampling::uniform(8).within(1.5, None)
    );
    assert!(read(r#"{"fps": {"fps": 2.0, "stop": 3}}"#).is_err());
}
