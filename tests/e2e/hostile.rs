//! Malicious files: each gives a typed error or an answer within seconds, reaches no network and no other file, and does
//! not affect other files.

use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// Upper bound of the time for one file: seconds on an idle machine, more on a busy one. The limits of the decoder end
/// longer work, with an error that the tests do not accept.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Starts a server for the malicious files. Returns its address and the addresses of its clients, in order.
fn server() -> (String, Arc<Mutex<Vec<SocketAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let clients: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    let connected = clients.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            connected.lock().unwrap().extend(client.peer_addr());
        }
    });
    (address, clients)
}

/// Decodes a whole file, as every command does. Returns the number of frames or the error, and the time.
fn frames(path: &Path) -> (Result<usize, DecoderError>, Duration) {
    let start = Instant::now();
    let process = ProcessLimits { silence_s: TIME_LIMIT.as_secs(), cpu_s: 5, ..ProcessLimits::default() };
    let request = DecodeRequest { process, ..DecodeRequest::new(path, FrameSampling::fps(1.0)) };
    let decoded = decode(binary(), path, request, &Cancel::default())
        .and_then(|mut frames| frames.try_fold(0, |n, f| f.map(|_| n + 1)));
    (decoded, start.elapsed())
}

/// Writes files that refer to other files and to servers.
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

/// Writes a small file with many frames.
fn many_frames(folder: &Path) -> PathBuf {
    let path = folder.join("thousand_fps.mp4");
    let recipe = "-nostdin -v error -y -f lavfi -i color=s=64x48:r=1000 -t 120 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let mut arguments: Vec<&str> = recipe.split_whitespace().collect();
    let name = path.to_string_lossy().into_owned();
    arguments.push(&name);
    run("ffmpeg", &arguments);
    path
}

/// The kernels that run the tests support the whole sandbox.
#[test]
fn decoders_are_fully_sandboxed() {
    let confined = confinement(binary(), ProcessLimits::default()).unwrap();
    assert!(confined.is_full(), "{confined}");
}

#[test]
fn references_in_files_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (address, clients) = server();
    let secret = folder.path().join("secret.mp4");
    std::fs::copy(clip("short"), &secret).unwrap();
    for path in pointers(folder.path(), &address, &secret) {
        let (decoded, took) = frames(&path);
        let error = decoded.expect_err(&path.to_string_lossy());
        let code = error.code();
        assert!(["container_not_allowed", "unknown_container"].contains(&code), "{}: {code}", path.display());
        assert!(took < TIME_LIMIT, "{}: {took:?}", path.display());
    }
    // The server accepts connections in order. Once ours is accepted, all earlier ones are.
    let ours = TcpStream::connect(&address).unwrap();
    let ours = ours.local_addr().unwrap();
    while !clients.lock().unwrap().contains(&ours) {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(*clients.lock().unwrap(), [ours], "a decoder connected");
    assert_eq!(frames(&secret).0.unwrap(), 1, "the referenced file has no frame");
}

#[test]
fn decompression_bombs_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    let huge = clip("huge");
    let fast = many_frames(folder.path());
    let empty = write(folder.path(), "empty.mp4", b"");
    let wrong_magic = write(folder.path(), "magic.mp4", &[&b"\0\0\0\x18ftypzzzz"[..], &[7; 4096]].concat());
    for (path, wanted) in [
        (&huge, Some("limit_pixels")),
        (&empty, Some("empty_file")),
        (&wrong_magic, Some("malformed_video")),
        // Two minutes at 1000 frames per second are 120 frames at one per second.
        (&fast, None),
    ] {
        let (decoded, took) = frames(path);
        match (decoded, wanted) {
            (Ok(frames), None) => assert_eq!(frames, 120, "{}", path.display()),
            (Err(error), Some(code)) => assert_eq!(error.code(), code, "{}: {error}", path.display()),
            (other, _) => panic!("{}: {other:?}, not {wanted:?}", path.display()),
        }
        assert!(took < TIME_LIMIT, "{}: {took:?}", path.display());
    }
}

/// Returns a copy with a few bytes changed, removed, repeated or moved, or with its end cut off.
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

/// Randomly broken files give an answer or an error of that file.
#[test]
fn randomly_broken_files_are_answered_or_rejected() {
    const MUTATIONS: u64 = 400;
    let sources = [
        "short",
        "one_frame",
        "vp9",
        "av1_aom",
        "mpeg4",
        "mjpeg",
        "three_streams",
        "small",
        "prores",
        "dnxhd",
        "mpeg_ps",
        "h263",
        "flv1",
        "theora",
        "wmv2",
        "divx3",
        "alpha_vp9",
        "pq",
        "woven_mpeg2",
        "animated",
    ];
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
                    assert!(took < TIME_LIMIT, "{seed}: {took:?}");
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
    assert!(of("crashed") <= 20, "{ended:?}");
    // Both results must occur; else the mutations are too weak or too strong.
    assert!(of("answered") >= 20 && of("refused") >= 20, "{ended:?}");
}
