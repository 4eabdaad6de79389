//! Transport streams as recorders write them: they begin within a packet, have longer packets, or are damaged.

use std::path::Path;

use flamingo::video::{Frame, FrameSampling, Video, VideoLimits};
use support::clips::{clip, run, write};

const PACKET: usize = 188;
const CLIPS: [&str; 3] = ["small", "big", "late_start"];

fn frames(path: &Path) -> (usize, Vec<Frame>) {
    let video = Video::open(path, &VideoLimits::default()).unwrap();
    assert_eq!(video.info().container, "mpegts");
    let frames = video.frames(&FrameSampling::fps(2.0)).unwrap().map(|frame| frame.unwrap()).collect();
    (video.info().frames, frames)
}

/// Number of frames that ffprobe decodes.
fn expected_frames(path: &Path) -> usize {
    let entries = ["-v", "error", "-select_streams", "v:0", "-count_frames", "-show_entries"];
    let format = ["stream=nb_read_frames", "-of", "csv=p=0", path.to_str().unwrap()];
    let listed = String::from_utf8(run("ffprobe", &[&entries[..], &format].concat()).stdout).unwrap();
    listed.lines().next().unwrap().trim_end_matches(',').parse().unwrap()
}

/// Rewrites a clip and compares its frames with those of the clip.
#[track_caller]
fn check(name: &str, rewrite: impl Fn(&[u8]) -> Vec<u8>) {
    let whole = std::fs::read(clip(name)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "rewritten", &rewrite(&whole));
    let (count, found) = frames(&path);
    assert_eq!(count, expected_frames(&path), "{name}");
    assert!(found == frames(&clip(name)).1, "{name}: other frames");
}

#[test]
fn a_stream_can_begin_within_a_packet() {
    for (name, offset) in CLIPS.into_iter().zip([1, 93, 187]) {
        check(name, |whole| [&whole[whole.len() - offset..], whole].concat());
    }
}

#[test]
fn packets_can_be_longer() {
    for name in CLIPS {
        // Error correction follows each packet; a time stamp precedes it.
        check(name, |whole| whole.chunks(PACKET).flat_map(|packet| [packet, &[0xaa; 16]].concat()).collect());
        check(name, |whole| {
            whole.chunks(PACKET).flat_map(|packet| [&[7, 0, 1, 2], packet].concat()).collect()
        });
    }
}

#[test]
fn longer_packets_can_be_cut_at_the_start() {
    for (name, offset) in CLIPS.into_iter().zip([3, 110, 203]) {
        check(name, |whole| {
            let long: Vec<u8> = whole.chunks(PACKET).flat_map(|p| [p, &[0xaa; 16]].concat()).collect();
            [&long[long.len() - offset..], &long].concat()
        });
    }
}

/// The frames of the first group of pictures depend on the damaged packet; the last frame does not.
#[test]
fn a_sync_byte_can_be_damaged() {
    for (name, packet) in CLIPS.into_iter().zip([4, 7, 11]) {
        let mut bytes = std::fs::read(clip(name)).unwrap();
        bytes[packet * PACKET] = 0x46;
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), "damaged", &bytes);
        let last = |path: &Path| {
            let video = Video::open(path, &VideoLimits::default()).unwrap();
            video.frames(&FrameSampling::uniform(2)).unwrap().last().unwrap().unwrap().image
        };
        assert_eq!(frames(&path).0, expected_frames(&path), "{name}");
        assert!(last(&path) == last(&clip(name)), "{name}: another last frame");
    }
}
