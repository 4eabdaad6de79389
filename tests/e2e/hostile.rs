//! Files made to do harm: each is a typed error or an answer within seconds, reaches no network and no other file, and takes
//! nothing down with it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use flamingo::video::FrameSampling;
use inference::context::Cancel;
use inference::decoder::{DecodeRequest, DecoderError, ProcessLimits, confinement, decode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::clips::{clip, run, write};

use crate::program::binary;

/// What the decoder may take of each file.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that wants to be asked, and counts.
fn lure() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, asked)
}

/// Decodes a file to its end, as every command does: its frames, or its error; and how long that took.
fn frames(path: &Path) -> (Result<usize, DecoderError>, Duration) {
    let start = Instant::now();
    let request = DecodeRequest::new(path, FrameSampling::fps(1.0));
    let decoded = decode(binary(), path, request, &Cancel::default())
        .and_then(|mut frames| frames.try_fold(0, |n, f| f.map(|_| n + 1)));
    (decoded, start.elapsed())
}

/// Files that name other files and servers.
fn pointers(folder: &Path, address: &str, secret: &Path) -> Vec<PathBuf> {
    let (host, port) = address.split_once(':').unwrap();
    let secret = secret.display();
    let texts = [
        ("hls", format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:9,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n")),
        ("hls_file", format!("#EXTM3U\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n")),
        (
            "dash",
            format!(
                r#"<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
                mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>
                <AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="64" height="64">
                <BaseURL>http://{address}/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"#
            ),
        ),
        ("concat", format!("ffconcat version 1.0\nfile '{secret}'\n")),
        ("concat_http", format!("ffconcat version 1.0\nfile 'http://{address}/a.mp4'\n")),
        (
            "sdp",
            format!(
                "v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 {host}\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
            ),
        ),
        (
            "svg",
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{address}/a.png"/></svg>"#
            ),
        ),
        ("smil", format!("<smil><body><video src=\"http://{address}/a\"/></body></smil>")),
        ("url", format!("http://{address}/a.mp4\n")),
    ];
    texts.into_iter().map(|(name, text)| write(folder, &format!("{name}.mp4"), text.as_bytes())).collect()
}

/// A small file of many frames: bytes do not bound the work.
fn many_frames(folder: &Path) -> PathBuf {
    let path = folder.join("thousand_fps.mp4");
    let recipe = "-nostdin -v error -y -f lavfi -i color=s=64x48:r=1000 -t 120 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let mut arguments: Vec<&str> = recipe.split_whitespace().collect();
    let name = path.to_string_lossy().into_owned();
    arguments.push(&name);
    run("ffmpeg", &arguments);
    path
}

/// On the kernels that the tests run on.
#[test]
fn decoders_are_confined() {
    let confined = confinement(binary(), ProcessLimits::default()).unwrap();
    assert!(confined.is_full(), "{confined}");
}

#[test]
fn files_that_point_elsewhere_reach_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (address, asked) = lure();
    let secret = folder.path().join("secret.mp4");
    std::fs::copy(clip("short"), &secret).unwrap();
    for path in pointers(folder.path(), &address, &secret) {
        let (decoded, took) = frames(&path);
        let error = decoded.expect_err(&path.to_string_lossy());
        let code = error.code();
        assert!(["container_not_allowed", "unknown_container"].contains(&code), "{}: {code}", path.display());
        assert!(took < PATIENCE, "{}: {took:?}", path.display());
    }
    // A connection that was made is counted a moment later.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(asked.load(Ordering::SeqCst), 0, "somebody connected");
    assert_eq!(frames(&secret).0.unwrap(), 1, "there was something to read");
}

#[test]
fn bombs_go_off_in_the_hands_of_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let huge = clip("huge");
    let fast = many_frames(folder.path());
    let empty = write(folder.path(), "empty.mp4", b"");
    let wrong_magic = write(folder.path(), "magic.mp4", &[&b"\0\0\0\x18ftypzzzz"[..], &[7; 4096]].concat());
    for (path, wanted) in [
        (&huge, Some("limit_pixels")),
        (&empty, Some("empty_file")),
        (&wrong_magic, Some("malformed_video")),
        // Two minutes of a thousand frames a second are 120 frames at one per second.
        (&fast, None),
    ] {
        let (decoded, took) = frames(path);
        match (decoded, wanted) {
            (Ok(frames), None) => assert_eq!(frames, 120, "{}", path.display()),
            (Err(error), Some(code)) => assert_eq!(error.code(), code, "{}: {error}", path.display()),
            (other, _) => panic!("{}: {other:?}, not {wanted:?}", path.display()),
        }
        assert!(took < PATIENCE, "{}: {took:?}", path.display());
    }
}

/// A copy with a few bytes changed, cut out, doubled or moved, or its end cut off.
fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..bytes.len());
        let length = rng.random_range(1..=64).min(bytes.len() - at);
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at..at + length].fill(rng.random()),
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

/// Good files, broken at random: an answer, or the error of that file.
#[test]
fn broken_files_are_errors_of_their_own() {
    const MUTATIONS: u64 = 200;
    let sources = ["short", "one_frame", "vp9", "av1_aom", "mpeg4", "mjpeg", "three_streams", "small"];
    let sources: Vec<(PathBuf, Vec<u8>)> =
        sources.iter().map(|name| (clip(name), std::fs::read(clip(name)).unwrap())).collect();
    for (path, _) in &sources {
        frames(path).0.unwrap_or_else(|e| panic!("whole: {e}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let ended: Mutex<Vec<&str>> = Mutex::default();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst) as u64;
                    if seed >= MUTATIONS {
                        return;
                    }
                    let (source, bytes) = &sources[seed as usize % sources.len()];
                    let extension = source.extension().unwrap().to_string_lossy();
                    let path = write(folder.path(), &format!("{seed}.{extension}"), &mutated(bytes, seed));
                    let (decoded, took) = frames(&path);
                    assert!(took < PATIENCE, "{seed}: {took:?}");
                    ended.lock().unwrap().push(match decoded {
                        Ok(_) => "answered",
                        Err(DecoderError::Video { .. }) => "refused",
                        Err(DecoderError::Crashed { .. }) => "crashed",
                        Err(other) => panic!("{seed}: {other}"),
                    });
                }
            });
        }
    });
    let ended = ended.into_inner().unwrap();
    let of = |end: &str| ended.iter().filter(|e| **e == end).count();
    println!(
        "{MUTATIONS} mutations: {} answered, {} refused, {} crashes of the decoder",
        of("answered"),
        of("refused"),
        of("crashed")
    );
    assert_eq!(ended.len() as u64, MUTATIONS);
    assert!(of("crashed") <= 10, "{ended:?}");
    // Both ends are seen, or the mutations are too weak or too strong to say anything.
    assert!(of("answered") >= 20 && of("refused") >= 20, "{ended:?}");
}
