//! Frames are what a player shows: square pixels, one field, SDR colours, white behind transparent parts.

use flamingo::video::{Frame, FrameSampling, Video, VideoLimits, Warning};
use support::clips::clip;

use crate::pictures::{by_ffmpeg, luma, luma_difference};

/// Returns all frames at 5 per second, and checks that a full decode gives the same.
fn frames(name: &str) -> (Video, Vec<Frame>, Vec<Warning>) {
    let video = Video::open(clip(name), &VideoLimits::default()).unwrap();
    let sampling = FrameSampling::fps(5.0);
    let mut planned = video.frames(&sampling).unwrap();
    let all: Vec<Frame> = planned.by_ref().map(|frame| frame.unwrap()).collect();
    let full: Vec<Frame> = video.frames_by_full_decode(&sampling).unwrap().map(|f| f.unwrap()).collect();
    assert!(all == full, "{name}: other frames");
    let (width, height) = (video.info().width, video.info().height);
    assert!(all.iter().all(|frame| frame.image.dimensions() == (width, height)), "{name}");
    let warnings = planned.summary().warnings;
    (video, all, warnings)
}

/// Splits ffmpeg's pixels into the frames at 5 per second of a clip with `rate`.
fn at_five(pixels: &[u8], frame_bytes: usize, rate: usize) -> Vec<&[u8]> {
    assert_eq!(pixels.len() % frame_bytes, 0, "another size");
    pixels.chunks_exact(frame_bytes).step_by(rate / 5).collect()
}

fn check_shape(name: &str, rate: usize, size: (u32, u32)) {
    let (video, frames, warnings) = frames(name);
    assert_eq!((video.info().width, video.info().height), size, "{name}");
    assert_eq!(warnings, [], "{name}");
    let pixels = by_ffmpeg(&clip(name), "", &format!("scale={}:{}", size.0, size.1), "rgb24");
    let expected = at_five(&pixels, (size.0 * size.1 * 3) as usize, rate);
    assert_eq!(frames.len(), expected.len(), "{name}");
    for (frame, expected) in frames.iter().zip(expected) {
        let mean = luma_difference(frame.image.as_raw(), expected);
        assert!(mean < 2.0, "{name}: {mean:.2} off at {} s", frame.pts);
    }
}

#[test]
fn pixels_become_square() {
    check_shape("wide_pixels", 10, (384, 288));
    check_shape("narrow_pixels", 10, (320, 240));
    check_shape("wide_pixels_ts", 25, (512, 288));
    check_shape("wide_pixels_rotated", 10, (180, 320));
    check_shape("absurd_pixels", 10, (128, 98));
}

#[test]
fn limits_apply_to_the_shown_size() {
    let code = |limits| Video::open(clip("wide_pixels"), &limits).err().map(|e| e.code());
    let pixels = |max_pixels| VideoLimits { max_pixels, ..VideoLimits::default() };
    assert_eq!(code(pixels(384 * 288)), None);
    assert_eq!(code(pixels(384 * 288 - 1)), Some("limit_pixels"));
    assert_eq!(code(VideoLimits { max_side: 383, ..VideoLimits::default() }), Some("limit_side"));
}

/// Compares the middles of areas of one colour with zimg. Brighter light than reference white is compressed, so
/// nearly white areas may be darker by the tolerance.
fn check_hdr(name: &str, transfer: &str) {
    let (video, frames, warnings) = frames(name);
    assert_eq!(video.info().transfer.as_deref(), Some(transfer), "{name}");
    assert_eq!(warnings, [], "{name}");
    let (width, height) = (video.info().width, video.info().height);
    let filter = "zscale=t=bt709:p=bt709:m=bt709:npl=203";
    let pixels = by_ffmpeg(&clip(name), "", filter, "rgb24");
    let expected = at_five(&pixels, (width * height * 3) as usize, 10);
    assert_eq!(frames.len(), expected.len(), "{name}");
    let mut areas = 0;
    for (frame, expected) in frames.iter().zip(expected) {
        let at = |x: u32, y: u32| {
            let i = ((y * width + x) * 3) as usize;
            [expected[i], expected[i + 1], expected[i + 2]]
        };
        for (x, y) in (8..height - 8).step_by(6).flat_map(|y| (8..width - 8).step_by(6).map(move |x| (x, y)))
        {
            let middle = at(x, y);
            let near = |x, y| at(x, y).iter().zip(middle).all(|(a, b)| a.abs_diff(b) <= 1);
            let flat = (0..=4).all(|i| (0..=4).all(|k| near(x + 2 * i - 4, y + 2 * k - 4)));
            if flat {
                areas += 1;
                let found = frame.image.get_pixel(x, y).0;
                let close = found.iter().zip(middle).all(|(a, b)| a.abs_diff(b) <= 6);
                assert!(close, "{name} at {x} {y}: {found:?}, expected {middle:?}");
            }
        }
    }
    assert!(areas > 300, "{name}: {areas} areas");
}

#[test]
fn hdr_becomes_sdr() {
    check_hdr("pq", "smpte2084");
    check_hdr("pq_full_range", "smpte2084");
    check_hdr("pq_8bit", "smpte2084");
    check_hdr("hlg", "arib-std-b67");
    check_hdr("hlg_vp9", "arib-std-b67");
}

/// Share of pixels whose luma lies on one side of both neighbours above and below, by many steps.
fn teeth(rgb: &[u8], width: usize) -> f64 {
    let luma: Vec<f64> = rgb.chunks_exact(3).map(luma).collect();
    let tooth = |i: usize| {
        let (up, down) = (luma[i] - luma[i - width], luma[i] - luma[i + width]);
        up * down > 0.0 && up.abs().min(down.abs()) > 24.0
    };
    let inner = width..luma.len() - width;
    let count = inner.len();
    inner.filter(|i| tooth(*i)).count() as f64 / count as f64
}

fn check_fields(name: &str, first: &str) {
    let (video, frames, warnings) = frames(name);
    assert_eq!(warnings, [], "{name}");
    let (width, height) = (video.info().width as usize, video.info().height as usize);
    let size = width * height * 3;
    let woven = by_ffmpeg(&clip(name), "", "null", "rgb24");
    // Ffmpeg's own deinterlacer: one frame for each picture.
    let smooth = by_ffmpeg(&clip(name), "", "bwdif=mode=send_frame", "rgb24");
    let field = by_ffmpeg(&clip(name), "", &format!("field={first}"), "rgb24");
    let (woven, smooth, field) =
        (at_five(&woven, size, 25), at_five(&smooth, size, 25), at_five(&field, size / 2, 25));
    assert_eq!(frames.len(), woven.len(), "{name}");
    let (mut from_smooth, mut from_woven) = (0.0, 0.0);
    for (i, frame) in frames.iter().enumerate() {
        let ours = frame.image.as_raw();
        let (before, after) = (teeth(woven[i], width), teeth(ours, width));
        assert!(before > 0.004, "{name} {i}: {before:.4} teeth, so the test proves nothing");
        // The lines of text and of fine patterns are teeth too, and a single field leaves more of them than several do.
        let detail = teeth(smooth[i], width);
        assert!(
            after < before / 3.0 && after < 3.0 * detail + 0.003,
            "{name} {i}: {before:.4} teeth, then {after:.4}; ffmpeg leaves {detail:.4}"
        );
        // The first field stays, and the picture between is near that of a filter that sees several pictures.
        let kept: Vec<u8> = ours
            .chunks_exact(width * 3)
            .skip(usize::from(first == "bottom"))
            .step_by(2)
            .flatten()
            .copied()
            .collect();
        let off = luma_difference(&kept, field[i]);
        assert!(off < 2.5, "{name} {i}: the first field is {off:.2} off");
        from_smooth += luma_difference(ours, smooth[i]);
        from_woven += luma_difference(woven[i], smooth[i]);
    }
    assert!(from_smooth < from_woven, "{name}: {from_smooth:.2} off, the woven pictures {from_woven:.2}");
}

#[test]
fn interlaced_pictures_show_one_field() {
    check_fields("woven_top", "top");
    check_fields("woven_bottom", "bottom");
    check_fields("woven_mpeg2", "top");
    check_fields("woven_10bit", "top");
}

/// FFmpeg needs libvpx for this, which Debian's has. Without it there is a warning `alpha_ignored`.
fn check_alpha(name: &str, decoder: &str) {
    let (video, frames, warnings) = frames(name);
    assert_eq!(warnings, [], "{name}");
    let rgba = by_ffmpeg(&clip(name), &format!("-c:v {decoder}"), "null", "rgba");
    let expected = at_five(&rgba, (video.info().width * video.info().height * 4) as usize, 10);
    assert_eq!(frames.len(), expected.len(), "{name}");
    for (frame, rgba) in frames.iter().zip(expected) {
        let mixed = |p: &[u8]| {
            let alpha = f64::from(p[3]) / 255.0;
            [0, 1, 2].map(|i| (f64::from(p[i]) * alpha + 255.0 * (1.0 - alpha)).round() as u8)
        };
        let expected: Vec<u8> = rgba.chunks_exact(4).flat_map(mixed).collect();
        let mean = luma_difference(frame.image.as_raw(), &expected);
        assert!(mean < 1.5, "{name}: {mean:.2} off at {} s", frame.pts);
        assert!(
            frame.image.get_pixel(1, 1).0.iter().all(|value| *value > 235),
            "{name}: the corner is not white"
        );
    }
}

#[test]
fn transparent_videos_lie_on_white() {
    check_alpha("prores_alpha", "prores");
    check_alpha("alpha_vp9", "libvpx-vp9");
    check_alpha("alpha_vp8", "libvpx");
    check_alpha("alpha_vp9_long_gop", "libvpx-vp9");
}
