//! What an error means for the job: the only place that knows which of them may pass.

use std::io;

use flamingo::Error;
use jobs::Failure;
use jobs::store::StoreError;
use jobs::worker::Trouble;
use rustix::io::Errno;

use crate::budget::NoRoom;
use crate::decoder::DecoderError;
use crate::fetch::FetchError;
use crate::model::ModelError;
use crate::understand::UnderstandError;

/// What now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It would fail again: the report says so.
    Final,
    /// The outside world failed: again later, counted.
    Retry,
    /// There is no room for it here now: again later, not counted.
    Later,
    /// This worker is broken.
    Unfit,
    /// Somebody wanted it to end.
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
        NoRoom::Ever { .. } => Verdict::Final,
        NoRoom::Now { .. } => Verdict::Later,
    }
}

fn of_store(error: &StoreError) -> Verdict {
    if error.is_transient() { Verdict::Retry } else { Verdict::Final }
}

/// `on_cpu`: a processor does not break, so what a model refuses there lies in the input, unless there is no memory for it.
pub fn of_understanding(error: &UnderstandError, on_cpu: bool) -> Verdict {
    match error {
        UnderstandError::Decoder(error) => of_decoding(error),
        UnderstandError::Model { source: ModelError::Gone, .. } => Verdict::Unfit,
        UnderstandError::Model { source: ModelError::Unwanted, .. } => Verdict::Cancelled,
        UnderstandError::Model { source: ModelError::Refused(Error::Tensor(error)), .. }
            if !on_cpu || is_out_of_memory(error) =>
        {
            Verdict::Unfit
        }
        UnderstandError::Model { source: ModelError::Refused(_), .. } => Verdict::Final,
        UnderstandError::TooManyFrames { .. } | UnderstandError::NoFrames { .. } => Verdict::Final,
        UnderstandError::Stopped { .. } => Verdict::Cancelled,
    }
}

fn of_decoding(error: &DecoderError) -> Verdict {
    match error {
        DecoderError::Video { .. } | DecoderError::Deadline { .. } => Verdict::Final,
        // Nobody here kills a decoder whose frames are wanted, so it is the kernel of a machine without memory.
        DecoderError::NotStarted { .. } | DecoderError::Killed { .. } => Verdict::Unfit,
        // Also one that finds no more memory within its own limit: that is much for a video.
        DecoderError::Crashed { .. } => Verdict::Retry,
        DecoderError::Io { source, .. } if is_this_machine(source) => Verdict::Unfit,
        DecoderError::Io { .. } => Verdict::Retry,
    }
}

/// candle has no error of its own for it: a driver's own words reach us.
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let said = error.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "cannot allocate memory"].iter().any(|words| said.contains(words))
}

/// No memory, processes or descriptors for a decoder.
fn is_this_machine(error: &io::Error) -> bool {
    let short = [Errno::NOMEM, Errno::AGAIN, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

/// For steps that have no report of their own: listing inputs, writing results.
pub fn trouble(error: &FetchError) -> Trouble {
    let why = Failure::new(error.code(), error.to_string());
    match of_fetching(error) {
        Verdict::Final => Trouble::Permanent(why),
        Verdict::Retry | Verdict::Later | Verdict::Unfit | Verdict::Cancelled => Trouble::Transient(why),
    }
}

/// Results can be written as soon as the store takes them, whatever it says now: what was worked out is not thrown away.
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

    fn tensor(said: &str) -> UnderstandError {
        let source = ModelError::Refused(Error::Tensor(candle_core::Error::Msg(said.into())));
        UnderstandError::Model { path: "a.mp4".into(), source }
    }

    /// A worker that is broken ends, whatever it had in hand: each way of being broken, and what looks like one.
    #[test]
    fn broken_workers_are_told_from_bad_videos() {
        let path = || PathBuf::from("a.mp4");
        let decoder = |error| of_understanding(&UnderstandError::Decoder(error), true);
        let read = |errno| decoder(DecoderError::Io { path: path(), source: io(errno) });
        let how = String::from;
        for (case, verdict, expected) in [
            ("its decoder was killed", decoder(DecoderError::Killed { path: path() }), Verdict::Unfit),
            ("no decoder starts", decoder(DecoderError::NotStarted { how: how("") }), Verdict::Unfit),
            ("no memory to start one", read(Errno::NOMEM), Verdict::Unfit),
            ("no process to be had", read(Errno::AGAIN), Verdict::Unfit),
            ("no descriptor to be had", read(Errno::MFILE), Verdict::Unfit),
            ("the file is not there", read(Errno::NOENT), Verdict::Retry),
            (
                "its decoder crashed, perhaps for want of memory within its limit",
                decoder(DecoderError::Crashed { path: path(), how: how("signal: 6 (SIGABRT)") }),
                Verdict::Retry,
            ),
            (
                "the model's thread is gone",
                of_understanding(&UnderstandError::Model { path: path(), source: ModelError::Gone }, true),
                Verdict::Unfit,
            ),
            ("the device has no memory", of_understanding(&tensor("out of memory"), false), Verdict::Unfit),
            ("a processor says so", of_understanding(&tensor("out of memory"), true), Verdict::Unfit),
            ("a device is broken", of_understanding(&tensor("illegal address"), false), Verdict::Unfit),
            ("a processor refuses", of_understanding(&tensor("shape mismatch"), true), Verdict::Final),
        ] {
            assert_eq!(verdict, expected, "{case}");
        }
    }

    #[test]
    fn fetching_has_its_ways_too() {
        let url = || "s3://b/a.mp4".to_owned();
        let full = |errno| FetchError::Temporary { folder: "/tmp".into(), source: io(errno) };
        let never = NoRoom::Ever { asked: 2, limit: 1 };
        let now = NoRoom::Now { asked: 2, limit: 3, waited: Duration::from_secs(90) };
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
