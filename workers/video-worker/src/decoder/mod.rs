//! Decoding in a child process: no video bytes are parsed where there are credentials, sockets or a loaded model.
//!
//! The parent opens the file and hands it to the child as standard input; the child, the same binary under a hidden
//! subcommand, gives up what decoding does not need ([`Confinement`]), decodes, and writes messages to standard output. The
//! child's environment is empty. A child that crashes or overstays is an error of that video and of nothing else.

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
mod wire;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use child::serve;
pub use sandbox::Confinement;
use wire::Message;

/// The hidden subcommand under which a binary calls [`serve`].
pub const SUBCOMMAND: &str = "decode-frames";

/// What the child is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeRequest {
    /// The input as errors name it; the child never opens it.
    #[serde(serialize_with = "readable_path")]
    pub name: PathBuf,
    pub sampling: FrameSampling,
    pub limits: VideoLimits,
    pub process: ProcessLimits,
    /// The child is killed when this is set; it never hears of it.
    #[serde(skip)]
    pub stop: StopFlag,
}

/// Set when nobody wants the frames any more. Clones are the same flag, and all flags that were never shared are equal.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for StopFlag {
    fn eq(&self, other: &Self) -> bool {
        self.is_set() == other.is_set()
    }
}

/// JSON is Unicode and file names need not be.
fn readable_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl DecodeRequest {
    /// Within the default limits.
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

/// What the child process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessLimits {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_s: u64,
    /// Seconds that the next frame (or the first word about the file) may take to come. Time in which the parent does
    /// not ask, because the model is busy, does not count.
    pub silence_s: u64,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { memory: 4 << 30, cpu_s: 3600, silence_s: 600 }
    }
}

/// Why a video did not come out of the child as frames.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The file cannot be opened, or no child can be started.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The decoder's own word: a [`VideoError`](flamingo::error::VideoError) with its code.
    #[error("{message}")]
    Video { code: String, message: String },
    /// Before it had seen anything of the file: this machine is at fault.
    #[error("no decoder starts here: {how}")]
    NotStarted { how: String },
    #[error("{path}: the decoder crashed ({how})")]
    Crashed { path: PathBuf, how: String },
    /// By somebody else: a machine without memory kills the largest.
    #[error("{path}: the decoder was killed, as a machine that runs out of memory does it")]
    Killed { path: PathBuf },
    #[error("{path}: the decoder was silent for longer than the {allowed} s that are allowed")]
    Deadline { path: PathBuf, allowed: u64 },
}

impl DecoderError {
    /// The stable code of this error, part of the public contract.
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

/// The frames of one video, as the child decodes them. Dropping it ends the child.
#[derive(Debug)]
pub struct DecodedFrames {
    request: DecodeRequest,
    output: BufReader<ChildStdout>,
    child: Guarded,
    confinement: Confinement,
    info: VideoInfo,
    summary: Option<Summary>,
    failed: bool,
}

/// Starts `program` as the decoder of a file and waits until it knows what the file is.
///
/// # Errors
/// The file is no video within the limits, or the child could not do its work.
pub fn decode(program: &Path, file: &Path, request: DecodeRequest) -> Result<DecodedFrames, DecoderError> {
    let io = |source| DecoderError::Io { path: request.name.clone(), source };
    // Before it is opened: opening a named pipe would wait for its writer.
    match std::fs::metadata(file).map_err(io)?.file_type() {
        kind if kind.is_dir() => return Err(io(std::io::ErrorKind::IsADirectory.into())),
        kind if !kind.is_file() => return Err(io(std::io::Error::other("not a regular file"))),
        _ => {}
    }
    let file = File::open(file).map_err(io)?;
    let text = serde_json::to_string(&request).map_err(|e| io(e.into()))?;
    let (mut child, mut output, confinement) = start(program, text, file.into(), &request)?;
    match child.listen(|| next(&mut output, &request)) {
        Ok(Message::Info(info)) => {
            Ok(DecodedFrames { request, output, child, confinement, info, summary: None, failed: false })
        }
        Ok(Message::Failed { code, message }) => Err(DecoderError::Video { code, message }),
        Ok(_) | Err(_) => Err(child.post_mortem(&request)),
    }
}

/// How far a decoder that `program` starts on this machine, within these limits, is confined.
///
/// # Errors
/// No child starts.
pub fn confinement(program: &Path, process: ProcessLimits) -> Result<Confinement, DecoderError> {
    let request = DecodeRequest { process, ..DecodeRequest::new(program, FrameSampling::default()) };
    let text = serde_json::to_string(&request).unwrap_or_default();
    start(program, text, Stdio::null(), &request).map(|(_, _, confinement)| confinement)
}

/// A child that has said how far it is confined, and will say next what its input is.
fn start(
    program: &Path,
    text: String,
    input: Stdio,
    request: &DecodeRequest,
) -> Result<(Guarded, BufReader<ChildStdout>, Confinement), DecoderError> {
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
    let mut child = Guarded::new(child, deadline, request.stop.clone())
        .map_err(|e| DecoderError::NotStarted { how: e.to_string() })?;
    match child.listen(|| next(&mut output, request)) {
        Ok(Message::Ready(confinement)) => Ok((child, output, confinement)),
        Ok(_) | Err(_) => Err(match child.post_mortem(request) {
            DecoderError::Crashed { how, .. } => DecoderError::NotStarted { how },
            DecoderError::Killed { .. } => DecoderError::NotStarted { how: "it was killed".into() },
            other => other,
        }),
    }
}

fn next(output: &mut impl Read, request: &DecodeRequest) -> std::io::Result<Message> {
    wire::read(output, request.limits.max_pixels)
}

impl DecodedFrames {
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// How far the child is confined.
    pub fn confinement(&self) -> Confinement {
        self.confinement
    }

    /// Counts and warnings; there once the iterator has ended without an error.
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
        let error = match self.child.listen(|| next(&mut self.output, &self.request)) {
            Ok(Message::Frame(frame)) => return Some(Ok(frame)),
            Ok(Message::End(summary)) => {
                self.summary = Some(summary);
                return None;
            }
            Ok(Message::Failed { code, message }) => DecoderError::Video { code, message },
            Ok(Message::Ready(_) | Message::Info(_)) | Err(_) => self.child.post_mortem(&self.request),
        };
        self.failed = true;
        Some(Err(error))
    }
}

/// A child that is killed when it is silent for too long, and when nobody needs it any more.
#[derive(Debug)]
struct Guarded {
    child: Arc<Mutex<Child>>,
    /// Says when the parent begins and ends to wait. Dropped when the child is not needed; the watch then kills it if it
    /// still runs.
    listening: Option<Sender<bool>>,
    /// Says whether the deadline passed.
    watch: Option<JoinHandle<bool>>,
}

impl Guarded {
    fn new(child: Child, deadline: Duration, stop: StopFlag) -> std::io::Result<Self> {
        let child = Arc::new(Mutex::new(child));
        let (listening, heard) = channel();
        let watched = child.clone();
        let watch = std::thread::Builder::new().spawn(move || {
            let late = silent_for_too_long(&heard, deadline, &stop);
            let mut child = watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // A child that has ended by itself cannot be killed; its status says how.
            if late || !matches!(child.try_wait(), Ok(Some(_))) {
                let _ = child.kill();
            }
            late
        });
        match watch {
            Ok(watch) => Ok(Self { child, listening: Some(listening), watch: Some(watch) }),
            Err(error) => {
                let mut child = child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Waits for the child's next word, under the eyes of the watch.
    fn listen<T>(&self, word: impl FnOnce() -> T) -> T {
        let say = |waiting| self.listening.as_ref().map(|listening| listening.send(waiting));
        say(true);
        let heard = word();
        say(false);
        heard
    }

    /// Why the child stopped talking in the middle of a sentence.
    fn post_mortem(&mut self, request: &DecodeRequest) -> DecoderError {
        let path = request.name.clone();
        // Its output has ended, so it is ending; give it the moment that takes.
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
        // Not by us, who kill what goes on after this or is not wanted. A child that takes too long ends by SIGXCPU.
        if ended.is_some_and(|how| how.signal() == Some(libc::SIGKILL)) {
            return DecoderError::Killed { path };
        }
        let how = self.lock().wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        DecoderError::Crashed { path, how }
    }

    /// Ends watch and child; says whether the deadline had passed.
    fn stop(&mut self) -> bool {
        drop(self.listening.take());
        let late = self.watch.take().is_some_and(|watch| watch.join().unwrap_or(false));
        let _ = self.lock().wait();
        late
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How often the watch looks whether the frames are still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Follows when the parent waits; `false` when it needs the child no more.
fn silent_for_too_long(heard: &Receiver<bool>, deadline: Duration, stop: &StopFlag) -> bool {
    let mut since: Option<Instant> = None;
    loop {
        match heard.recv_timeout(LOOK) {
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

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}
