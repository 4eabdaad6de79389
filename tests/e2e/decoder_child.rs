//! Video bytes are parsed in a child that holds nothing and outlives nobody.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flamingo::video::{FrameSampling, VideoLimits};
use serde_json::Value;
use support::clips::{clip, run};
use video_worker::decoder::{DecodeRequest, ProcessLimits, decode};

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

/// The most bytes that a pipe holds between two processes.
const PIPE: u64 = 64 << 10;

/// How many bytes a process has written.
fn written(process: &Path) -> u64 {
    let io = std::fs::read_to_string(process.join("io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.map_or(0, |bytes| bytes.trim().parse().unwrap())
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
    let child = wait("a decoder", 60, || decoder_of(&input));
    assert_eq!(std::fs::read(child.join("environ")).unwrap(), b"", "its environment is empty");
    let secret = std::fs::read(format!("/proc/{}/environ", parent.id())).unwrap();
    assert!(String::from_utf8_lossy(&secret).contains("hunter2"), "the parent's is not");
    assert_eq!(std::fs::read_link(child.join("cwd")).unwrap(), Path::new("/"));
    // It limits itself right after it started.
    let limits = wait("limits", 60, || {
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
    wait("the decoder to end", 60, || decoder_of(&input).is_none().then_some(()));
}

#[test]
fn a_killed_child_is_an_error_of_its_video() {
    let folder = tempfile::tempdir().unwrap();
    let (input, good) = (own_copy(folder.path(), "h264"), clip("short"));
    let parent = busy(&input, &[good.as_os_str()]);
    let child = wait("a decoder", 60, || decoder_of(&input));
    // Before its parent has read that it is confined, no video is to blame. More was written than their pipe holds.
    wait("frames", 60, || (written(&child) > PIPE).then_some(()));
    assert!(has_a_filter(&child));
    signal("KILL", &child);
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let reports: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().map(parse).collect();
    let said =
        format!("{}: the decoder was killed, as a machine that runs out of memory does it", input.display());
    assert_eq!(reports[0]["error"], serde_json::json!({"code": "decoder_killed", "message": said}));
    assert_eq!((reports.len(), &reports[1]["status"]), (2, &"succeeded".into()));
    assert_eq!(decoder_of(&input), None);
}

/// A child that works for seconds without a word notices too that nobody listens. Its work is measured in processor time,
/// which other programs do not change.
#[test]
fn the_child_ends_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "slow");
    let mut parent = Command::new(binary());
    parent.arg("frames").arg(&input).args(["--start", "2.9"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut whole = parent.spawn().unwrap();
    let all = work_until_the_end(&input, |_| ());
    assert!(whole.wait().unwrap().success());
    assert!(all > 20, "the clip is not slow: {all} ticks");

    let mut parent = parent.spawn().unwrap();
    let mut killed = false;
    let done = work_until_the_end(&input, |ticks| {
        if !killed && ticks >= all / 8 {
            parent.kill().unwrap();
            parent.wait().unwrap();
            killed = true;
        }
    });
    assert!(killed, "it ended before its parent");
    assert!(done < all * 3 / 4, "it went on for {done} of {all} ticks");
}

/// Waits for a decoder of `input` and until it has ended; its processor time in ticks, which `watch` hears of meanwhile.
fn work_until_the_end(input: &Path, mut watch: impl FnMut(u64)) -> u64 {
    let child = wait("a decoder", 60, || decoder_of(input));
    let mut ticks = 0;
    wait("the decoder to end", 120, || {
        let stat = std::fs::read_to_string(child.join("stat")).unwrap_or_default();
        // After the program's name in parentheses; a zombie works no more.
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        if fields.first().is_none_or(|state| *state == "Z") {
            return Some(());
        }
        ticks = [11, 12].iter().map(|&i| fields[i].parse::<u64>().unwrap()).sum();
        watch(ticks);
        None
    });
    ticks
}

#[test]
fn no_child_is_left_when_its_frames_are_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let mut frames = decode(binary(), &input, request(&input, ProcessLimits::default())).unwrap();
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
    let mut frames = decode(binary(), &input, request(&input, limits)).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    signal("STOP", &decoder_of(&input).expect("the child waits for its frames to be taken"));
    let error = frames.find_map(Result::err).expect("the child was ended");
    assert_eq!(error.code(), "decoder_deadline");
    let said = "clip.mp4: the decoder was silent for longer than the 1 s that are allowed";
    assert!(error.to_string().ends_with(said), "{error}");
    assert!(frames.next().is_none() && decoder_of(&input).is_none());
}

/// A model may think about a frame for as long as it likes.
#[test]
fn a_busy_parent_is_no_silent_child() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let limits = ProcessLimits { silence_s: 1, ..ProcessLimits::default() };
    let mut frames = decode(binary(), &input, request(&input, limits)).unwrap();
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
        decode(binary(), &input, request(&input, limits))
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
