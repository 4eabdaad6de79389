//! Video bytes are parsed in a child that holds nothing and outlives nobody.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flamingo::video::{FrameSampling, VideoLimits};
use inference::context::Cancel;
use inference::decoder::{DecodeRequest, ProcessLimits, decode};
use serde_json::Value;
use support::clips::{clip, run};

use crate::program::{QUICK, binary, command, quick};

/// Far more than the pipe between child and parent holds: a child whose frames nobody takes stays.
fn request(name: &Path, process: ProcessLimits) -> DecodeRequest {
    let sampling = FrameSampling::fps(30.0);
    DecodeRequest { process, limits: VideoLimits::default(), ..DecodeRequest::new(name, sampling) }
}

/// The clip under a name of its own, to tell its child from those of the other tests.
fn own_copy(folder: &Path, from: &str) -> PathBuf {
    let path = folder.join("clip.mp4");
    std::fs::copy(clip(from), &path).unwrap();
    path
}

/// The decoder of `name`, if it runs.
fn decoder_of(name: &Path) -> Option<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_it = |process: &PathBuf| {
        let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.len() > 2 && words[1] == "decode-frames" && words[2].contains(&*name.to_string_lossy())
    };
    processes.into_iter().find(is_it)
}

/// Whether the process has a filter of system calls.
fn has_a_filter(process: &Path) -> bool {
    std::fs::read_to_string(process.join("status")).is_ok_and(|status| status.contains("Seccomp:\t2"))
}

/// Asks until there is an answer.
#[track_caller]
fn wait<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Some(answer) => return answer,
            None => assert!(start.elapsed() < Duration::from_secs(seconds), "waited {seconds} s: {what}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(name: &str, process: &Path) {
    let id = process.file_name().unwrap().to_string_lossy().into_owned();
    run("sh", &["-c", &format!("kill -{name} {id}")]);
}

/// A program that works for seconds on ten frames a second of a clip, window by window.
fn busy(input: &Path, others: &[&OsStr]) -> Child {
    let mut program = command();
    program.arg("caption").arg(input).args(others).args(["--json", "--fps", "10", "--window", "500ms"]);
    program.args(QUICK).env("AWS_SECRET_ACCESS_KEY", "hunter2");
    program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_child_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let mut parent = busy(&input, &[]);
    let child = wait("a decoder", 30, || decoder_of(&input));
    assert_eq!(std::fs::read(child.join("environ")).unwrap(), b"", "its environment is empty");
    let secret = std::fs::read(format!("/proc/{}/environ", parent.id())).unwrap();
    assert!(String::from_utf8_lossy(&secret).contains("hunter2"), "the parent's is not");
    assert_eq!(std::fs::read_link(child.join("cwd")).unwrap(), Path::new("/"));
    // It limits itself right after it started.
    let limits = wait("limits", 5, || {
        let limits = std::fs::read_to_string(child.join("limits")).unwrap();
        let limit = |name: &str| {
            let line = limits.lines().find(|line| line.starts_with(name)).expect("Linux knows it");
            line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        let all = ["Max address space", "Max file size", "Max core file size", "Max open files"].map(limit);
        (all[3] == "16 16").then_some(all)
    });
    assert_eq!(limits, ["4294967296 4294967296", "0 0", "0 0", "16 16"]);
    let open: Vec<_> = std::fs::read_dir(child.join("fd")).unwrap().flatten().collect();
    assert!((3..=6).contains(&open.len()), "{open:?}");
    let targets = open.iter().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let sockets: Vec<_> = targets.filter(|target| target.to_string_lossy().contains("socket")).collect();
    assert!(sockets.is_empty(), "{sockets:?}");
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait("the decoder to end", 5, || decoder_of(&input).is_none().then_some(()));
}

#[test]
fn a_killed_child_is_an_error_of_its_video() {
    let folder = tempfile::tempdir().unwrap();
    let (input, good) = (own_copy(folder.path(), "h264"), clip("short"));
    let parent = busy(&input, &[good.as_os_str()]);
    let child = wait("a decoder", 30, || decoder_of(&input));
    // Before that it has not begun, and no video is to blame.
    wait("its sandbox", 5, || has_a_filter(&child).then_some(()));
    std::thread::sleep(Duration::from_millis(100));
    signal("KILL", &child);
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let reports: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().map(parse).collect();
    let said =
        format!("{}: the decoder was killed (SIGKILL, as by the kernel out of memory)", input.display());
    assert_eq!(reports[0]["error"], serde_json::json!({"code": "decoder_killed", "message": said}));
    assert_eq!((reports.len(), &reports[1]["status"]), (2, &"succeeded".into()));
    assert_eq!(decoder_of(&input), None);
}

/// A child that works for seconds without a word notices too that nobody listens.
#[test]
fn the_child_ends_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "slow");
    let started = Instant::now();
    let mut parent = Command::new(binary());
    parent.arg("frames").arg(&input).args(["--start", "2.9"]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(parent.status().unwrap().success());
    let alone = started.elapsed();
    assert!(alone > Duration::from_millis(300), "the clip is not slow: {alone:?}");

    let mut parent = parent.spawn().unwrap();
    let started = Instant::now();
    wait("a decoder", 30, || decoder_of(&input));
    std::thread::sleep(alone / 8);
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait("the decoder to end", 30, || decoder_of(&input).is_none().then_some(()));
    assert!(started.elapsed() < alone / 2, "it went on for {:?} of {alone:?}", started.elapsed());
}

#[test]
fn no_child_is_left_when_its_frames_are_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let mut frames =
        decode(binary(), &input, request(&input, ProcessLimits::default()), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    let child = decoder_of(&input).expect("the child waits for its frames to be taken");
    drop(frames);
    assert!(!child.exists(), "neither running nor a zombie");
}

/// A child that says nothing for too long, here because it was stopped.
#[test]
fn a_deadline_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let limits = ProcessLimits { silence_s: 1, ..ProcessLimits::default() };
    let mut frames = decode(binary(), &input, request(&input, limits), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    signal("STOP", &decoder_of(&input).expect("the child waits for its frames to be taken"));
    let error = frames.find_map(Result::err).expect("the child was ended");
    assert_eq!(error.code(), "decoder_deadline");
    let said = "clip.mp4: the decoder sent nothing for longer than the allowed 1 s";
    assert!(error.to_string().ends_with(said), "{error}");
    assert!(frames.next().is_none() && decoder_of(&input).is_none());
}

/// A model may think about a frame for as long as it likes.
#[test]
fn a_busy_parent_is_no_silent_child() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let limits = ProcessLimits { silence_s: 1, ..ProcessLimits::default() };
    let mut frames = decode(binary(), &input, request(&input, limits), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(frames.all(|frame| frame.is_ok()));
}

#[test]
fn memory_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("wide.png");
    // 75 MB once it is decoded.
    image::RgbImage::new(5000, 5000).save(&input).unwrap();
    let answered = |megabytes: u64| {
        let limits = ProcessLimits { memory: megabytes << 20, ..ProcessLimits::default() };
        decode(binary(), &input, request(&input, limits), &Cancel::default())
            .and_then(|frames| frames.collect::<Result<Vec<_>, _>>())
    };
    assert_eq!(answered(1024).unwrap().len(), 1);
    let error = answered(256).expect_err("the picture does not fit");
    assert_eq!(error.code(), "decoder_crashed", "{error}");
    let error = answered(16).expect_err("nothing fits");
    assert_eq!(error.code(), "decoder_not_started", "{error}");
}

#[test]
fn pixels_are_limited() {
    let input = clip("huge");
    let ran = quick(&[OsStr::new("caption"), input.as_os_str()]).exits(1);
    let said = "a frame of 8192x8192 has more than the 33177600 pixels that are allowed";
    assert_eq!(ran.errors(), [format!("error[limit_pixels]: {}: {said}", input.display())]);
}
