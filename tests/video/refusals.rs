//! Files with a wrong name or without video are refused, each with its code and a message that names the
//! actual format.

use flamingo::video::{Video, VideoLimits};
use support::clips::{clip, write};

fn refused(path: &std::path::Path, code: &str, words: &str) {
    let Err(error) = Video::open(path, &VideoLimits::default()) else {
        panic!("{} was accepted", path.display())
    };
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
}

fn check(name: &str, bytes: &[u8], code: &str, words: &str) {
    let directory = tempfile::tempdir().unwrap();
    refused(&write(directory.path(), name, bytes), code, words);
}

#[test]
fn refuses_playlists_and_manifests() {
    let refused = "container_not_allowed";
    check("hls.mp4", b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", refused, "an HLS playlist");
    let dash = br#"<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>"#;
    check("dash.mp4", dash, refused, "a DASH manifest");
    check("concat.mp4", b"ffconcat version 1.0\nfile other.mp4\n", refused, "an ffconcat list");
    check(
        "sdp.mp4",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
        refused,
        "an SDP session",
    );
    check("page.mp4", b"<!DOCTYPE html><html></html>", refused, "an HTML page");
}

#[test]
fn refuses_other_files() {
    check("empty.mp4", b"", "empty_file", "empty");
    check("diary.mp4", b"dear diary, today nothing moved\n", "unknown_container", "text file");
    check("noise.mp4", &[0x93, 0x01, 0xfe, 0x00, 0x77, 0x01], "unknown_container", "no known format");
    check("archive.mp4", b"PK\x03\x04\x14\0", "container_not_allowed", "ZIP");
    check(
        "icon.ico",
        b"\0\0\x01\0\x01\0\x20\x20",
        "container_not_allowed",
        "a Windows icon (convert it to PNG)",
    );
    check(
        "photo.heic",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        "container_not_allowed",
        "a HEIF image (convert it to",
    );
    check("map.ppm", b"P6\n3 2\n255\n\x93\0", "container_not_allowed", "a PNM image");
    check("picture.qoi", b"qoif\0\0\0\x08", "container_not_allowed", "a QOI image");
    check("head.mp4", b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2", "malformed_video", "mov");
    check("head.mkv", b"\x1a\x45\xdf\xa3\xff\xff", "malformed_video", "matroska");
    check("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "malformed_video", "PNG");
    check("cut.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "malformed_video", "JPEG");
}

#[test]
fn refuses_media_without_video() {
    refused(&clip("sound"), "no_video_stream", "no video stream");
    refused(&clip("lossless"), "codec_not_allowed", "ffv1");
    let missing = std::path::Path::new("nowhere/missing.mp4");
    refused(missing, "io", "No such file");
}

#[test]
fn refuses_a_video_without_decodable_frames() {
    let mut bytes = std::fs::read(clip("faststart")).unwrap();
    let data = bytes.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    bytes[data..].fill(0);
    check("void.mp4", &bytes, "no_frames", "no frame");
}
