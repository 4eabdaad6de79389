//! The other side: runs in the child, and nowhere else.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use flamingo::error::VideoError;
use flamingo::video::Video;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};

use super::wire::{self, Message};
use super::{DecodeRequest, ProcessLimits, sandbox};

/// Decodes the video on standard input as `request` (JSON) says and writes messages to standard output.
///
/// # Errors
/// The request is malformed, or the parent has gone. What is wrong with the video is a message, not an error.
pub fn serve(request: &str) -> io::Result<()> {
    let request: DecodeRequest = serde_json::from_str(request)?;
    close_all_but_the_standard_three();
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    limit(&request.process)?;
    let confinement = sandbox::enter();
    end_with_the_reader();
    let mut output = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    wire::write(&mut output, Message::Ready(confinement))?;
    match send(&request, file, &mut output)? {
        Ok(()) => Ok(()),
        Err(e) => wire::write(&mut output, Message::Failed { code: e.code().into(), message: e.to_string() }),
    }
}

/// The outer result is about the parent, the inner one about the video.
fn send(request: &DecodeRequest, file: File, output: &mut impl Write) -> io::Result<Result<(), VideoError>> {
    let video = match Video::from_file(file, &request.name, &request.limits) {
        Ok(video) => video,
        Err(e) => return Ok(Err(e)),
    };
    let mut frames = match video.frames(&request.sampling) {
        Ok(frames) => frames,
        Err(e) => return Ok(Err(e)),
    };
    wire::write(output, Message::Info(video.info().clone()))?;
    for frame in &mut frames {
        match frame {
            Ok(frame) => wire::write(output, Message::Frame(frame))?,
            Err(e) => return Ok(Err(e)),
        }
    }
    wire::write(output, Message::End(frames.summary()))?;
    Ok(Ok(()))
}

/// Kills this process when nobody reads its output any more, however long it would go on without writing.
fn end_with_the_reader() {
    std::thread::spawn(|| {
        let stdout = io::stdout();
        // Asked for nothing, a pipe still tells that its other end is gone.
        let mut pipe = [PollFd::new(&stdout, PollFlags::empty())];
        while !matches!(poll(&mut pipe, None), Ok(1..)) {}
        // SIGKILL is what the kernel of a machine without memory sends: nothing in here may look like that.
        kill_process(getpid(), Signal::TERM)
    });
}

/// Closes what this process was handed by mistake. Linux before 5.9 cannot, and nothing of ours hands on descriptors.
fn close_all_but_the_standard_three() {
    // SAFETY: nothing in this process has opened a descriptor yet, so nobody will use one that is closed here.
    #[allow(unsafe_code)]
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Takes from this process what decoding does not need, before the first byte of the video is read.
fn limit(limits: &ProcessLimits) -> io::Result<()> {
    for (resource, current, most) in [
        (Resource::As, limits.memory, limits.memory),
        // At the soft limit of time it is SIGXCPU that ends it; at the hard one it were SIGKILL, as without memory.
        (Resource::Cpu, limits.cpu_s, limits.cpu_s.saturating_add(1)),
        (Resource::Fsize, 0, 0),
        (Resource::Core, 0, 0),
        (Resource::Nofile, 16, 16),
    ] {
        // A limit that is lower already cannot be raised, and need not be.
        let most = getrlimit(resource).maximum.map_or(most, |already| most.min(already));
        setrlimit(resource, Rlimit { current: Some(current.min(most)), maximum: Some(most) })?;
    }
    Ok(())
}
