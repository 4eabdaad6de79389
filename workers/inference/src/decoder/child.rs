//! The child side of the decoder.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use flamingo::error::VideoError;
use flamingo::video::Video;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};

use super::protocol::{self, Message};
use super::{DecodeRequest, ProcessLimits, sandbox};

/// Decodes the video on standard input as `request` (JSON) says and writes messages to standard output.
///
/// # Errors
/// The request is malformed, or the parent has gone. An error of the video is sent as a message.
pub fn serve(request: &str) -> io::Result<()> {
    let request: DecodeRequest = serde_json::from_str(request)?;
    close_inherited_descriptors();
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    set_limits(&request.process)?;
    let confinement = sandbox::enter();
    exit_when_reader_is_gone();
    let mut output = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    protocol::write(&mut output, Message::Ready(confinement))?;
    match send(&request, file, &mut output)? {
        Ok(()) => Ok(()),
        Err(e) => {
            protocol::write(&mut output, Message::Failed { code: e.code().into(), message: e.to_string() })
        }
    }
}

/// Sends all messages; the outer result is about the pipe to the parent, the inner one about the video.
fn send(request: &DecodeRequest, file: File, output: &mut impl Write) -> io::Result<Result<(), VideoError>> {
    let video = match Video::from_file(file, &request.name, &request.limits) {
        Ok(video) => video,
        Err(e) => return Ok(Err(e)),
    };
    let mut frames = match video.frames(&request.sampling) {
        Ok(frames) => frames,
        Err(e) => return Ok(Err(e)),
    };
    protocol::write(output, Message::Info(video.info().clone()))?;
    for frame in &mut frames {
        match frame {
            Ok(frame) => protocol::write(output, Message::Frame(frame))?,
            Err(e) => return Ok(Err(e)),
        }
    }
    protocol::write(output, Message::End(frames.summary()))?;
    Ok(Ok(()))
}

/// Kills this process when the reader of its output is gone, even while it writes nothing.
fn exit_when_reader_is_gone() {
    std::thread::spawn(|| {
        let stdout = io::stdout();
        // Polled for no event, a pipe still reports that its other end is closed.
        let mut pipe = [PollFd::new(&stdout, PollFlags::empty())];
        while !matches!(poll(&mut pipe, None), Ok(1..)) {}
        // Not SIGKILL: the parent takes that for the kernel out of memory.
        kill_process(getpid(), Signal::TERM)
    });
}

/// Closes inherited descriptors. Linux before 5.9 has no `close_range`, and our parent passes no descriptors.
fn close_inherited_descriptors() {
    // SAFETY: this process has not opened a descriptor yet, so no owner of a closed descriptor exists.
    #[allow(unsafe_code)]
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Sets resource limits before the first byte of the video is read.
fn set_limits(limits: &ProcessLimits) -> io::Result<()> {
    for (resource, current, most) in [
        (Resource::As, limits.memory, limits.memory),
        // The soft limit ends it by SIGXCPU; the hard one would be SIGKILL, as out of memory.
        (Resource::Cpu, limits.cpu_s, limits.cpu_s.saturating_add(1)),
        (Resource::Fsize, 0, 0),
        (Resource::Core, 0, 0),
        (Resource::Nofile, 16, 16),
    ] {
        // A hard limit cannot be raised, so a lower existing one stays.
        let most = getrlimit(resource).maximum.map_or(most, |already| most.min(already));
        setrlimit(resource, Rlimit { current: Some(current.min(most)), maximum: Some(most) })?;
    }
    Ok(())
}
