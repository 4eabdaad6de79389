//! The watchdog: kills a child after a deadline, on cancellation, and on drop.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{DecodeRequest, DecoderError};
use crate::context::Cancel;

/// A child with a watchdog thread that kills it after a deadline, on cancellation, and on drop.
#[derive(Debug)]
pub(super) struct ChildGuard {
    child: Arc<Mutex<Child>>,
    /// Tells the watchdog when the parent begins and ends to wait. When it is dropped, the watchdog kills the child if it
    /// still runs.
    waiting: Option<Sender<bool>>,
    /// Returns whether the deadline passed.
    watchdog: Option<JoinHandle<bool>>,
}

impl ChildGuard {
    pub(super) fn new(child: Child, deadline: Duration, cancel: Cancel) -> std::io::Result<Self> {
        let child = Arc::new(Mutex::new(child));
        let (waiting, parent_waits) = channel();
        let watched = child.clone();
        let watchdog = std::thread::Builder::new().spawn(move || {
            let late = watch_deadline(&parent_waits, deadline, &cancel);
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
    pub(super) fn with_deadline<T>(&self, read: impl FnOnce() -> T) -> T {
        let set_waiting = |waiting| self.waiting.as_ref().map(|sender| sender.send(waiting));
        set_waiting(true);
        let message = read();
        set_waiting(false);
        message
    }

    /// Returns the error of a child whose output ended early.
    pub(super) fn exit_error(&mut self, request: &DecodeRequest) -> DecoderError {
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

/// Interval at which the watchdog checks the cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the watchdog: `true` when the deadline passes, `false` when the child is not needed any more.
fn watch_deadline(parent_waits: &Receiver<bool>, deadline: Duration, cancel: &Cancel) -> bool {
    let mut since: Option<Instant> = None;
    loop {
        match parent_waits.recv_timeout(POLL_INTERVAL) {
            Ok(waiting) => since = waiting.then(Instant::now),
            Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return false,
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
