//! The retry policy: the only place that decides which errors may pass.

use std::io;

use flamingo::Error;
use jobs::Failure;
use jobs::store::StoreError;
use jobs::worker::Trouble;
use rustix::io::Errno;

use crate::admission::NoRoom;
use crate::inputs::FetchError;
use inference::analysis::AnalysisError;
use inference::decoder::DecoderError;
use inference::model::ModelError;

/// Decision about a failed item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It would fail again: write a failed report.
    Final,
    /// The outside world failed: retry later, counted as an attempt.
    Retry,
    /// No room here now: retry later, not counted.
    Later,
    /// This worker is broken.
    Unfit,
    /// Shutdown, or cancelled by the user.
    Cancelled,
}

pub fn of_fetching(error: &FetchError) -> Verdict {
    match error {
        FetchError::Location(_) | FetchError::NotAllowed(_) => Verdict::Final,
        FetchError::Store(error) => of_store(error),
        FetchError::Temporary { .. } => Verdict::Unfit,
        FetchError::NoRoom { why, .. } => of_room(why),
    }
}

pub fn of_room(why: &NoRoom) -> Verdict {
    match why {
        NoRoom::NeverFits { .. } => Verdict::Final,
        NoRoom::TimedOut { .. } => Verdict::Later,
    }
}

fn of_store(error: &StoreError) -> Verdict {
    if error.is_transient() { Verdict::Retry } else { Verdict::Final }
}

/// Decides about an analysis error. A CPU does not fail, so with `on_cpu` a tensor error is caused by the input, unless memory
/// ran out.
pub fn of_understanding(error: &AnalysisError, on_cpu: bool) -> Verdict {
    match error {
        AnalysisError::Decoder(error) => of_decoding(error),
        AnalysisError::Model { source: ModelError::Gone, .. } => Verdict::Unfit,
        AnalysisError::Model { source: ModelError::Cancelled, .. } => Verdict::Cancelled,
        AnalysisError::Model { source: ModelError::Refused(Error::Tensor(error)), .. }
            if !on_cpu || is_out_of_memory(error) =>
        {
            Verdict::Unfit
        }
        AnalysisError::Model { source: ModelError::Refused(_), .. } => Verdict::Final,
        AnalysisError::TooManyFrames { .. } | AnalysisError::NoFrames { .. } => Verdict::Final,
        AnalysisError::Cancelled { .. } => Verdict::Cancelled,
    }
}

fn of_decoding(error: &DecoderError) -> Verdict {
    match error {
        DecoderError::Video { .. } | DecoderError::Deadline { .. } => Verdict::Final,
        // This worker does not kill a decoder without cancelling, so the kernel did: out of memory.
        DecoderError::NotStarted { .. } | DecoderError::Killed { .. } => Verdict::Unfit,
        // Includes running out of its own memory limit, which is generous for a video.
        DecoderError::Crashed { .. } => Verdict::Retry,
        DecoderError::Io { source, .. } if is_this_machine(source) => Verdict::Unfit,
        DecoderError::Io { .. } => Verdict::Retry,
    }
}

/// Whether memory ran out. candle has no error variant for it, so match the text of the driver.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "cannot allocate memory"].iter().any(|words| text.contains(words))
}

/// Whether the machine lacks memory, processes or descriptors for a decoder.
fn is_this_machine(error: &io::Error) -> bool {
    let short = [Errno::NOMEM, Errno::AGAIN, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

/// Decides about steps without a report: listing inputs, writing results.
pub fn trouble(error: &FetchError) -> Trouble {
    let why = Failure::new(error.code(), error.to_string());
    match of_fetching(error) {
        Verdict::Final => Trouble::Permanent(why),
        Verdict::Retry | Verdict::Later | Verdict::Unfit | Verdict::Cancelled => Trouble::Transient(why),
    }
}

/// Treats every store error as transient: finished work is not thrown away.
pub fn store_trouble(error: &StoreError) -> Trouble {
    Trouble::Transient(Failure::new(error.code(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn io(errno: Errno) -> io::Error {
        errno.into()
    }

    fn tensor(text: &str) -> AnalysisError {
        let source = ModelError::Refused(Error::Tensor(candle_core::Error::Msg(text.into())));
        AnalysisError::Model { path: "a.mp4".into(), source }
    }

    /// A broken worker must stop: each way of being broken, and errors that resemble it.
    #[test]
    fn distinguishes_broken_workers_from_bad_videos() {
        let path = || PathBuf::from("a.mp4");
        let decoder = |error| of_understanding(&AnalysisError::Decoder(error), true);
        let read = |errno| decoder(DecoderError::Io { path: path(), source: io(errno) });
        let how = String::from;
        for (case, verdict, expected) in [
            ("decoder killed", decoder(DecoderError::Killed { path: path() }), Verdict::Unfit),
            ("decoder does not start", decoder(DecoderError::NotStarted { how: how("") }), Verdict::Unfit),
            ("no memory to start one", read(Errno::NOMEM), Verdict::Unfit),
            ("no process available", read(Errno::AGAIN), Verdict::Unfit),
            ("no descriptor available", read(Errno::MFILE), Verdict::Unfit),
            ("file not found", read(Errno::NOENT), Verdict::Retry),
            (
                "decoder crashed, perhaps at its memory limit",
                decoder(DecoderError::Crashed { path: path(), how: how("signal: 6 (SIGABRT)") }),
                Verdict::Retry,
            ),
            (
                "model thread ended",
                of_understanding(&AnalysisError::Model { path: path(), source: ModelError::Gone }, true),
                Verdict::Unfit,
            ),
            ("device out of memory", of_understanding(&tensor("out of memory"), false), Verdict::Unfit),
            ("CPU out of memory", of_understanding(&tensor("out of memory"), true), Verdict::Unfit),
            ("broken device", of_understanding(&tensor("illegal address"), false), Verdict::Unfit),
            ("tensor error on a CPU", of_understanding(&tensor("shape mismatch"), true), Verdict::Final),
        ] {
            assert_eq!(verdict, expected, "{case}");
        }
    }

    #[test]
    fn classifies_fetch_errors() {
        let url = || "s3://b/a.mp4".to_owned();
        let full = |errno| FetchError::Temporary { folder: "/tmp".into(), source: io(errno) };
        let never = NoRoom::NeverFits { asked: 2, limit: 1 };
        let now = NoRoom::TimedOut { asked: 2, limit: 3, waited: Duration::from_secs(90) };
        for (error, code, expected) in [
            (full(Errno::NOSPC), "temporary_storage", Verdict::Unfit),
            (full(Errno::DQUOT), "temporary_storage", Verdict::Unfit),
            (full(Errno::ROFS), "temporary_storage", Verdict::Unfit),
            (FetchError::NoRoom { url: url(), why: never }, "limit_temporary", Verdict::Final),
            (FetchError::NoRoom { url: url(), why: now }, "no_room", Verdict::Later),
            (StoreError::TooLarge { url: url(), limit: 1 }.into(), "limit_bytes", Verdict::Final),
            (
                StoreError::Unavailable { url: url(), reason: String::new() }.into(),
                "store_unavailable",
                Verdict::Retry,
            ),
        ] {
            assert_eq!((error.code(), of_fetching(&error)), (code, expected), "{error}");
        }
    }
}
