//! The parent side of the decoder: starts the child and reads its messages.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use flamingo::video::{Frame, FrameSampling, Summary, VideoInfo};

use super::protocol::{self, Message};
use super::watchdog::ChildGuard;
use super::{Confinement, DecodeRequest, DecoderError, ProcessLimits, SUBCOMMAND};
use crate::context::Cancel;

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

/// Starts `program` as the decoder of a file and waits for the file info. `cancel` kills the child.
///
/// # Errors
/// The file is not a video within the limits, or the child failed.
pub fn decode(
    program: &Path,
    file: &Path,
    request: DecodeRequest,
    cancel: &Cancel,
) -> Result<DecodedFrames, DecoderError> {
    let io = |source| DecoderError::Io { path: request.name.clone(), source };
    // Checked before opening: opening a named pipe would block until a writer comes.
    match std::fs::metadata(file).map_err(io)?.file_type() {
        kind if kind.is_dir() => return Err(io(std::io::ErrorKind::IsADirectory.into())),
        kind if !kind.is_file() => return Err(io(std::io::Error::other("not a regular file"))),
        _ => {}
    }
    let file = File::open(file).map_err(io)?;
    let text = serde_json::to_string(&request).map_err(|e| io(e.into()))?;
    let (mut child, mut output, confinement) = start(program, text, file.into(), &request, cancel)?;
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
    start(program, text, Stdio::null(), &request, &Cancel::default()).map(|(_, _, confinement)| confinement)
}

/// Starts the child and reads its first message, the confinement.
fn start(
    program: &Path,
    text: String,
    input: Stdio,
    request: &DecodeRequest,
    cancel: &Cancel,
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
    let mut child = ChildGuard::new(child, deadline, cancel.clone())
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
