//! Video bytes are parsed in a child process that has no secrets and no sockets and ends with its parent.

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

/// Requests more frames than the pipe holds: the child blocks until the parent reads them.
fn request(name: &Path, process: ProcessLimits) -> DecodeRequest {
    let sampling = FrameSampling::fps(30.0);
    DecodeRequest { process, limits: VideoLimits::default(), ..DecodeRequest::new(name, sampling) }
}

/// Copies the clip to a unique path, which identifies its child among those of other tests.
fn own_copy(folder: &Path, from: &str) -> PathBuf {
    let path = folder.join("clip.mp4");
    std::fs::copy(clip(from), &path).unwrap();
    path
}

/// Returns the `/proc` folder of the decoder of `name`, if it runs.
fn decoder_of(name: &Path) -> Option<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_it = |process: &PathBuf| {
        let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.len() > 2 && words[1] == "decode-frames" && words[2].contains(&*name.to_string_lossy())
    };
    processes.into_iter().find(is_it)
}

/// Returns whether the process has a seccomp filter.
fn has_a_filter(process: &Path) -> bool {
    std::fs::read_to_string(process.join("status")).is_ok_and(|status| status.contains("Seccomp:\t2"))
}

/// Capacity of a pipe, in bytes.
const PIPE: u64 = 64 << 10;

/// Returns how many bytes a process has written.
fn written(process: &Path) -> u64 {
    let io = std::fs::read_to_string(process.join("io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.map_or(0, |bytes| bytes.trim().parse().unwrap())
}

/// Polls `ask` until it returns a value.
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

/// Starts a program that works for seconds: ten frames per second, window by window.
fn busy(input: &Path, others: &[&OsStr]) -> Child {
    let mut program = command();
    program.arg("caption").arg(input).args(others).args(["--json", "--fps", "10", "--window", "500ms"]);
    program.args(QUICK).env("AWS_SECRET_ACCESS_KEY", "hunter2");
    program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_child_inherits_no_secrets_and_no_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let mut parent = busy(&input, &[]);
    let child = wait("a decoder", 60, || decoder_of(&input));
    assert_eq!(std::fs::read(child.join("environ")).unwrap(), b"", "its environment is not empty");
    let secret = std::fs::read(format!("/proc/{}/environ", parent.id())).unwrap();
    assert!(
        String::from_utf8_lossy(&secret).contains("hunter2"),
        "the environment of the parent has no secret"
    );
    assert_eq!(std::fs::read_link(child.join("cwd")).unwrap(), Path::new("/"));
    // It sets its limits right after its start.
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
fn a_killed_child_fails_its_video_only() {
    let folder = tempfile::tempdir().unwrap();
    let (input, good) = (own_copy(folder.path(), "h264"), clip("short"));
    let parent = busy(&input, &[good.as_os_str()]);
    let child = wait("a decoder", 60, || decoder_of(&input));
    // Until the parent has read the confinement message, the error is `decoder_not_started`. The parent has read it once
    // the child has written more than the pipe holds.
    wait("frames", 60, || (written(&child) > PIPE).then_some(()));
    assert!(has_a_filter(&child));
    signal("KILL", &child);
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let reports: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().map(parse).collect();
    let expected =
        format!("{}: the decoder was killed (SIGKILL, as by the kernel out of memory)", input.display());
    assert_eq!(reports[0]["error"], serde_json::json!({"code": "decoder_killed", "message": expected}));
    assert_eq!((reports.len(), &reports[1]["status"]), (2, &"succeeded".into()));
    assert_eq!(decoder_of(&input), None);
}

/// A child that decodes for seconds without output ends with its parent too. The test measures processor time, which does
/// not depend on other programs.
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
            killed = true;
        }
    });
    parent.wait().unwrap();
    assert!(killed, "the child ended before its parent was killed");
    assert!(done < all * 3 / 4, "the child worked for {done} of {all} ticks");
}

/// Waits until a decoder of `input` has started and ended. Returns its processor time in ticks and passes it to `watch`
/// meanwhile.
fn work_until_the_end(input: &Path, mut watch: impl FnMut(u64)) -> u64 {
    let child = wait("a decoder", 60, || decoder_of(input));
    let mut ticks = 0;
    wait("the decoder to end", 120, || {
        let stat = std::fs::read_to_string(child.join("stat")).unwrap_or_default();
        // The fields follow the program name, which is in parentheses. A zombie has ended.
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
fn dropping_the_frames_ends_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let mut frames =
        decode(binary(), &input, request(&input, ProcessLimits::default()), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    let child = decoder_of(&input).expect("the child does not wait for its frames to be read");
    drop(frames);
    assert!(!child.exists(), "neither running nor a zombie");
}

/// A child without output for too long is killed; here it was stopped.
#[test]
fn a_silent_child_is_killed_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let limits = ProcessLimits { silence_s: 1, ..ProcessLimits::default() };
    let mut frames = decode(binary(), &input, request(&input, limits), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    signal("STOP", &decoder_of(&input).expect("the child does not wait for its frames to be read"));
    let error = frames.find_map(Result::err).expect("the child was ended");
    assert_eq!(error.code(), "decoder_deadline");
    let expected = "clip.mp4: the decoder sent nothing for longer than the allowed 1 s";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert!(frames.next().is_none() && decoder_of(&input).is_none());
}

/// The deadline does not run while the parent processes a frame.
#[test]
fn a_slow_parent_does_not_trigger_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let input = own_copy(folder.path(), "h264");
    let limits = ProcessLimits { silence_s: 1, ..ProcessLimits::default() };
    let mut frames = decode(binary(), &input, request(&input, limits), &Cancel::default()).unwrap();
    assert!(frames.next().is_some_and(|frame| frame.is_ok()));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(frames.all(|frame| frame.is_ok()));
}

#[test]
fn memory_of_the_child_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("wide.png");
    // 75 MB after decoding.
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
fn pixels_of_a_frame_are_limited() {
    let input = clip("huge");
    let ran = quick(&[OsStr::new("caption"), input.as_os_str()]).exits(1);
    let expected = "a frame of 8192x8192 has more than the 33177600 pixels that are allowed";
    assert_eq!(ran.errors(), [format!("error[limit_pixels]: {}: {expected}", input.display())]);
}
