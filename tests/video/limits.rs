//! Each limit refuses videos beyond it with its own code and accepts videos just within it.

use flamingo::video::{FrameSampling, Video, VideoLimits};
use support::clips::clip;

fn read(name: &str, limits: &VideoLimits) -> Result<usize, &'static str> {
    let count = |video: Video| {
        let mut n = 0;
        for frame in video.frames(&FrameSampling::fps(1.0))? {
            frame?;
            n += 1;
        }
        Ok(n)
    };
    Video::open(clip(name), limits).and_then(count).map_err(|e| {
        let text = e.to_string();
        assert!(text.contains(name) && !text.ends_with('.'), "{text}");
        e.code()
    })
}

fn check(name: &str, code: &'static str, within: VideoLimits, beyond: VideoLimits) {
    assert!(
        read(name, &within).is_ok_and(|n| n > 0),
        "{name}: {within:?} should do: {:?}",
        read(name, &within)
    );
    assert_eq!(read(name, &beyond), Err(code), "{name}: {beyond:?}");
}

#[test]
fn each_limit_has_a_code() {
    let free = VideoLimits::default();
    let bytes = std::fs::metadata(clip("h264")).unwrap().len();
    let with_bytes = |max_bytes| VideoLimits { max_bytes, ..free.clone() };
    check("h264", "limit_bytes", with_bytes(bytes), with_bytes(bytes - 1));
    let with_duration = |max_duration_s| VideoLimits { max_duration_s, ..free.clone() };
    check("h264", "limit_duration", with_duration(14.0), with_duration(13.99));
    let with_pixels = |max_pixels| VideoLimits { max_pixels, ..free.clone() };
    check("h264", "limit_pixels", with_pixels(320 * 240), with_pixels(320 * 240 - 1));
    check("late_start", "limit_pixels", with_pixels(272 * 208), with_pixels(272 * 208 - 1));
    let with_packets = |max_packets| VideoLimits { max_packets, ..free.clone() };
    check("h264", "limit_packets", with_packets(420), with_packets(419));
    let with_streams = |max_streams| VideoLimits { max_streams, ..free.clone() };
    check("three_streams", "limit_streams", with_streams(3), with_streams(2));
    check("three_streams", "limit_streams", with_streams(3), with_streams(1));
    let with_decoded = |max_decoded_frames| VideoLimits { max_decoded_frames, ..free.clone() };
    check("h264", "limit_decoded_frames", with_decoded(200), with_decoded(20));
    check("mpeg4_no_pts", "limit_decoded_frames", with_decoded(150), with_decoded(149));
}

#[test]
fn limits_are_read_from_json() {
    let limits: VideoLimits = serde_json::from_str(r#"{"max_packets": 7}"#).unwrap();
    assert_eq!(limits, VideoLimits { max_packets: 7, ..VideoLimits::default() });
    assert!(serde_json::from_str::<VideoLimits>(r#"{"max_packages": 7}"#).is_err());
}
