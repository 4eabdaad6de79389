//! Decoding in a child process: no video bytes are parsed in a process with credentials, sockets or a loaded model.
//!
//! The parent opens the file and passes it to the child as standard input. The child is the same binary under a hidden
//! subcommand. It drops every right that decoding does not need ([`Confinement`]), decodes, and writes messages to standard
//! output. Its environment is empty. A child that crashes or exceeds a deadline is an error of that video only.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flamingo::video::{Frame, FrameSampling, Summary, VideoInfo, VideoLimits};
use serde::{Deserialize, Serialize};

mod child;
mod sandbox;
mod protocol;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use child::serve;
use protocol::Message;
pub use sandbox::Confinement;

/// The hidden subcommand under which a binary calls [`serve`].
pub const SUBCOMMAND: &str = "decode-frames";

/// Request to the child, passed as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeRequest {
    /// Name of the input in errors; the child never opens it.
    #[serde(serialize_with = "readable_path")]
    pub name: PathBuf,
    pub sampling: FrameSampling,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
    /// Kills the child when set; not sent to it.
    #[serde(skip)]
    pub stop: StopFlag,
}

/// Cancellation flag. Clones share the flag. Flags with equal values are equal.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Cancels.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is cancelled.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for StopFlag {
    fn eq(&self, other: &Self) -> bool {
        self.is_set() == other.is_set()
    }
}

/// Serializes a path with replacement characters: JSON is Unicode and file names need not be.
fn readable_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl DecodeRequest {
    /// Returns a request with the default limits.
    pub fn new(name: impl Into<PathBuf>, sampling: FrameSampling) -> Self {
        Self {
            name: name.into(),
            sampling,
            limits: VideoLimits::default(),
            process: ProcessLimits::default(),
            stop: StopFlag::default(),
        }
    }
}

/// Resource limits of the child process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessLimits {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_s: u64,
    /// Seconds until the next message (frame or file info). Time in which the parent does not read, because the model is
    /// busy, does not count.
    pub silence_s: u64,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { memory: 4 << 30, cpu_s: 3600, silence_s: 600 }
    }
}

/// Error of decoding in the child.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The file cannot be opened, or no child can be started.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// Error of the decoder: a [`VideoError`](flamingo::error::VideoError) with its code.
    #[error("{message}")]
    Video { code: String, message: String },
    /// The child failed before it read the file: the fault lies with this machine.
    #[error("the decoder cannot be started: {how}")]
    NotStarted { how: String },
    #[error("{path}: the decoder crashed ({how})")]
    Crashed { path: PathBuf, how: String },
    /// Killed by SIGKILL from outside: the kernel kills the largest process when memory runs out.
    #[error("{path}: the decoder was killed (SIGKILL, as by the kernel out of memory)")]
    Killed { path: PathBuf },
    #[error("{path}: the decoder sent nothing for longer than the allowed {allowed} s")]
    Deadline { path: PathBuf, allowed: u64 },
}

impl DecoderError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            DecoderError::Io { .. } => "io",
            DecoderError::Video { code, .. } => code,
            DecoderError::NotStarted { .. } => "decoder_not_started",
            DecoderError::Crashed { .. } => "decoder_crashed",
            DecoderError::Killed { .. } => "decoder_killed",
            DecoderError::Deadline { .. } => "decoder_deadline",
        }
    }
}

/// Frames of one video from the child. Dropping it ends the child.
#[derive(Debug)]
pub struct DecodedFrames {
    request: DecodeRequest,
    output: BufReader<ChildStdout>,
    child: ChildGuard,
    confinement: Confinement,
    info: VideoInfo,
    summary: Option<Summary>,
    failed: bool,
}

/// Starts `program` as the decoder of a file and waits for the file info.
///
/// # Errors
/// The file is not a video within the limits, or the child failed.
pub fn decode(program: &Path, file: &Path, request: DecodeRequest) -> Result<DecodedFrames, DecoderError> {
    let io = |source| DecoderError::Io { path: request.name.clone(), source };
    // Checked before opening: opening a named pipe would block until a writer comes.
    match std::fs::metadata(file).map_err(io)?.file_type() {
        kind if kind.is_dir() => return Err(io(std::io::ErrorKind::IsADirectory.into())),
        kind if !kind.is_file() => return Err(io(std::io::Error::other("not a regular file"))),
        _ => {}
    }
    let file = File::open(file).map_err(io)?;
    let text = serde_json::to_string(&request).map_err(|e| io(e.into()))?;
    let (mut child, mut output, confinement) = start(program, text, file.into(), &request)?;
    match child.with_deadline(|| next(&mut output, &request)) {
        Ok(Message::Info(info)) => {
            Ok(DecodedFrames { request, output, child, confinement, info, summary: None, failed: false })
        }
        Ok(Message::Failed { code, message }) => Err(DecoderError::Video { code, message }),
        Ok(_) | Err(_) => Err(child.exit_error(&request)),
    }
}

/// Starts a decoder without input and returns its confinement on this machine.
///
/// # Errors
/// The child cannot be started.
pub fn confinement(program: &Path, process: ProcessLimits) -> Result<Confinement, DecoderError> {
    let request = DecodeRequest { process, ..DecodeRequest::new(program, FrameSampling::default()) };
    let text = serde_json::to_string(&request).unwrap_or_default();
    start(program, text, Stdio::null(), &request).map(|(_, _, confinement)| confinement)
}

/// Starts the child and reads its first message, the confinement.
fn start(
    program: &Path,
    text: String,
    input: Stdio,
    request: &DecodeRequest,
) -> Result<(ChildGuard, BufReader<ChildStdout>, Confinement), DecoderError> {
    let child = Command::new(program)
        .arg(SUBCOMMAND)
        .arg(text)
        .env_clear()
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|source| DecoderError::Io { path: request.name.clone(), source })?;
    let mut output = BufReader::with_capacity(1 << 18, child.stdout.take().expect("stdout is piped"));
    let deadline = Duration::from_secs(request.process.silence_s);
    let mut child = ChildGuard::new(child, deadline, request.stop.clone())
        .map_err(|e| DecoderError::NotStarted { how: e.to_string() })?;
    match child.with_deadline(|| next(&mut output, request)) {
        Ok(Message::Ready(confinement)) => Ok((child, output, confinement)),
        Ok(_) | Err(_) => Err(match child.exit_error(request) {
            DecoderError::Crashed { how, .. } => DecoderError::NotStarted { how },
            DecoderError::Killed { .. } => DecoderError::NotStarted { how: "it was killed".into() },
            other => other,
        }),
    }
}

fn next(output: &mut impl Read, request: &DecodeRequest) -> std::io::Result<Message> {
    protocol::read(output, request.limits.max_pixels)
}

impl DecodedFrames {
    /// Returns the facts about the file.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Returns the confinement of the child.
    pub fn confinement(&self) -> Confinement {
        self.confinement
    }

    /// Returns counts and warnings, once the iterator has ended without an error.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }
}

impl Iterator for DecodedFrames {
    type Item = Result<Frame, DecoderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.summary.is_some() {
            return None;
        }
        let error = match self.child.with_deadline(|| next(&mut self.output, &self.request)) {
            Ok(Message::Frame(frame)) => return Some(Ok(frame)),
            Ok(Message::End(summary)) => {
                self.summary = Some(summary);
                return None;
            }
            Ok(Message::Failed { code, message }) => DecoderError::Video { code, message },
            Ok(Message::Ready(_) | Message::Info(_)) | Err(_) => self.child.exit_error(&self.request),
        };
        self.failed = true;
        Some(Err(error))
    }
}

/// A child with a watchdog thread that kills it after a deadline, on cancellation, and on drop.
#[derive(Debug)]
struct ChildGuard {
    child: Arc<Mutex<Child>>,
    /// Tells the watchdog when the parent begins and ends to wait. When it is dropped, the watchdog kills the child if it
    /// still runs.
    waiting: Option<Sender<bool>>,
    /// Returns whether the deadline passed.
    watchdog: Option<JoinHandle<bool>>,
}

impl ChildGuard {
    fn new(child: Child, deadline: Duration, stop: StopFlag) -> std::io::Result<Self> {
        let child = Arc::new(Mutex::new(child));
        let (waiting, parent_waits) = channel();
        let watched = child.clone();
        let watchdog = std::thread::Builder::new().spawn(move || {
            let late = watch_deadline(&parent_waits, deadline, &stop);
            let mut child = watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A child that has already exited cannot be killed; its status tells the cause.
            if late || !matches!(child.try_wait(), Ok(Some(_))) {
                let _ = child.kill();
            }
            late
        });
        match watchdog {
            Ok(watchdog) => Ok(Self { child, waiting: Some(waiting), watchdog: Some(watchdog) }),
            Err(error) => {
                let mut child = child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Reads the next message while the watchdog counts the time.
    fn with_deadline<T>(&self, read: impl FnOnce() -> T) -> T {
        let set_waiting = |waiting| self.waiting.as_ref().map(|sender| sender.send(waiting));
        set_waiting(true);
        let message = read();
        set_waiting(false);
        message
    }

    /// Returns the error of a child whose output ended early.
    fn exit_error(&mut self, request: &DecodeRequest) -> DecoderError {
        let path = request.name.clone();
        // The output has ended, so the child is exiting; wait up to 0.5 s for it.
        let mut ended = None;
        for _ in 0..50 {
            ended = self.lock().try_wait().ok().flatten();
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.stop() {
            return DecoderError::Deadline { path, allowed: request.process.silence_s };
        }
        // Not sent by the watchdog, which kills only later or on cancellation. The CPU limit ends a child by SIGXCPU.
        if ended.is_some_and(|how| how.signal() == Some(libc::SIGKILL)) {
            return DecoderError::Killed { path };
        }
        let how = self.lock().wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        DecoderError::Crashed { path, how }
    }

    /// Ends watchdog and child; returns whether the deadline had passed.
    fn stop(&mut self) -> bool {
        drop(self.waiting.take());
        let late = self.watchdog.take().is_some_and(|watchdog| watchdog.join().unwrap_or(false));
        let _ = self.lock().wait();
        late
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Interval at which the watchdog checks the cancellation flag.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the watchdog: `true` when the deadline passes, `false` when the child is not needed any more.
fn watch_deadline(parent_waits: &Receiver<bool>, deadline: Duration, stop: &StopFlag) -> bool {
    let mut since: Option<Instant> = None;
    loop {
        match parent_waits.recv_timeout(POLL_INTERVAL) {
            Ok(waiting) => since = waiting.then(Instant::now),
            Err(RecvTimeoutError::Timeout) if stop.is_set() => return false,
            Err(RecvTimeoutError::Timeout) if since.is_some_and(|since| since.elapsed() >= deadline) => {
                return true;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        self.stop();
    }
}
