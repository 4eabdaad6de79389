//! The retry policy: the only place that decides which errors may pass.

use std::io;

use flamingo::Error;
use jobs::store::StoreError;
use jobs::{Disposition, Failure, RetryCost, Stopped};
use rustix::io::Errno;

use super::manifest::ManifestError;
use super::reports::ReportError;
use crate::admission::NoRoom;
use crate::inputs::FetchError;
use crate::support::SupportStoreError;
use inference::analysis::AnalysisError;
use inference::decoder::DecoderError;
use inference::model::ModelError;

const ATTEMPT: Disposition = Disposition::Retry(RetryCost::Attempt);
/// No room here now, which says nothing about the item.
const FREE: Disposition = Disposition::Retry(RetryCost::Free);

pub fn of_fetching(error: &FetchError) -> Disposition {
    match error {
        FetchError::Location(_) | FetchError::NotAllowed(_) => Disposition::Fail,
        FetchError::Store(error) => of_store(error),
        FetchError::Temporary { .. } => Disposition::WorkerFault,
        FetchError::NoRoom { why, .. } => of_room(why),
    }
}

pub fn of_room(why: &NoRoom) -> Disposition {
    match why {
        NoRoom::NeverFits { .. } => Disposition::Fail,
        NoRoom::TimedOut { .. } => FREE,
    }
}

fn of_store(error: &StoreError) -> Disposition {
    if error.is_transient() { ATTEMPT } else { Disposition::Fail }
}

/// Decides about an analysis error. A CPU does not fail, so with `on_cpu` a tensor error is caused by the input, unless memory
/// ran out.
pub fn of_analysis(error: &AnalysisError, on_cpu: bool) -> Disposition {
    match error {
        AnalysisError::Decoder(error) => of_decoding(error),
        AnalysisError::Model { source: ModelError::Gone, .. } => Disposition::WorkerFault,
        AnalysisError::Model { source: ModelError::Cancelled, .. } => Disposition::Cancelled,
        AnalysisError::Model { source: ModelError::Refused(Error::Tensor(error)), .. }
            if !on_cpu || is_out_of_memory(error) =>
        {
            Disposition::WorkerFault
        }
        AnalysisError::Model { source: ModelError::Refused(_), .. } => Disposition::Fail,
        AnalysisError::TooManyFrames { .. } | AnalysisError::NoFrames { .. } => Disposition::Fail,
        AnalysisError::Cancelled { .. } => Disposition::Cancelled,
    }
}

fn of_decoding(error: &DecoderError) -> Disposition {
    match error {
        DecoderError::Video { .. } | DecoderError::Deadline { .. } => Disposition::Fail,
        // This worker does not kill a decoder without cancelling, so the kernel did: out of memory.
        DecoderError::NotStarted { .. } | DecoderError::Killed { .. } => Disposition::WorkerFault,
        // Includes running out of its own memory limit, which is generous for a video.
        DecoderError::Crashed { .. } => ATTEMPT,
        DecoderError::Io { source, .. } if is_this_machine(source) => Disposition::WorkerFault,
        DecoderError::Io { .. } => ATTEMPT,
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

/// Stops a run whose input cannot be fetched.
pub fn fetch_stopped(error: &FetchError) -> Stopped {
    Stopped::new(of_fetching(error), Failure::new(error.code(), error.to_string()))
}

/// Stops a step without a report: listing inputs. A full disk is no reason to fail or to end there, so all but permanent errors
/// are retried.
pub fn listing_stopped(error: &FetchError) -> Stopped {
    let disposition = match of_fetching(error) {
        Disposition::Fail => Disposition::Fail,
        Disposition::Retry(_) | Disposition::WorkerFault | Disposition::Cancelled => FREE,
    };
    Stopped::new(disposition, Failure::new(error.code(), error.to_string()))
}

/// Stops an item whose model this worker does not have: another worker may have it.
pub fn other_model(failure: Failure) -> Stopped {
    Stopped::new(ATTEMPT, failure)
}

/// Stops a step that the store has failed. Finished work is not thrown away: credentials and buckets come back, too. Only what
/// no store takes, or this store never, is permanent.
pub fn store_stopped(error: &StoreError) -> Stopped {
    let disposition = match error {
        StoreError::BadUrl { .. } | StoreError::Unsupported { .. } => Disposition::Fail,
        StoreError::NotFound { .. }
        | StoreError::Forbidden { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Changed { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Io { .. } => FREE,
    };
    Stopped::new(disposition, Failure::new(error.code(), error.to_string()))
}

/// Stops a step that needs a stored support set.
pub fn support_stopped(error: &SupportStoreError) -> Stopped {
    match error {
        SupportStoreError::Store(error) => store_stopped(error),
        SupportStoreError::NotFound { .. }
        | SupportStoreError::Invalid { .. }
        | SupportStoreError::TooLarge { .. }
        | SupportStoreError::IsCurrent { .. } => Stopped::fail(Failure::new(error.code(), error.to_string())),
    }
}

/// Stops an item whose report cannot be read or stored. An object in its place stays there, so a repetition is useless.
pub fn report_stopped(error: &ReportError) -> Stopped {
    match error {
        ReportError::Store(error) => store_stopped(error),
        ReportError::Foreign { .. } => Stopped::fail(Failure::new("foreign_report", error.to_string())),
        ReportError::Newer { .. } => Stopped::new(FREE, Failure::new("newer_schema", error.to_string())),
    }
}

/// Stops a job whose manifest cannot be read or stored. An object in its place stays there.
pub fn manifest_stopped(error: &ManifestError) -> Stopped {
    match error {
        ManifestError::Store(error) => store_stopped(error),
        ManifestError::Foreign { .. } => Stopped::fail(Failure::new("foreign_manifest", error.to_string())),
    }
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
        let decoder = |error| of_analysis(&AnalysisError::Decoder(error), true);
        let read = |errno| decoder(DecoderError::Io { path: path(), source: io(errno) });
        let how = String::from;
        for (case, disposition, expected) in [
            ("decoder killed", decoder(DecoderError::Killed { path: path() }), Disposition::WorkerFault),
            (
                "decoder does not start",
                decoder(DecoderError::NotStarted { how: how("") }),
                Disposition::WorkerFault,
            ),
            ("no memory to start one", read(Errno::NOMEM), Disposition::WorkerFault),
            ("no process available", read(Errno::AGAIN), Disposition::WorkerFault),
            ("no descriptor available", read(Errno::MFILE), Disposition::WorkerFault),
            ("file not found", read(Errno::NOENT), ATTEMPT),
            (
                "decoder crashed, perhaps at its memory limit",
                decoder(DecoderError::Crashed { path: path(), how: how("signal: 6 (SIGABRT)") }),
                ATTEMPT,
            ),
            (
                "model thread ended",
                of_analysis(&AnalysisError::Model { path: path(), source: ModelError::Gone }, true),
                Disposition::WorkerFault,
            ),
            ("device out of memory", of_analysis(&tensor("out of memory"), false), Disposition::WorkerFault),
            ("CPU out of memory", of_analysis(&tensor("out of memory"), true), Disposition::WorkerFault),
            ("broken device", of_analysis(&tensor("illegal address"), false), Disposition::WorkerFault),
            ("tensor error on a CPU", of_analysis(&tensor("shape mismatch"), true), Disposition::Fail),
        ] {
            assert_eq!(disposition, expected, "{case}");
        }
    }

    #[test]
    fn classifies_fetch_errors() {
        let url = || "s3://b/a.mp4".to_owned();
        let full = |errno| FetchError::Temporary { folder: "/tmp".into(), source: io(errno) };
        let never = NoRoom::NeverFits { asked: 2, limit: 1 };
        let now = NoRoom::TimedOut { asked: 2, limit: 3, waited: Duration::from_secs(90) };
        for (error, code, expected) in [
            (full(Errno::NOSPC), "temporary_storage", Disposition::WorkerFault),
            (full(Errno::DQUOT), "temporary_storage", Disposition::WorkerFault),
            (full(Errno::ROFS), "temporary_storage", Disposition::WorkerFault),
            (FetchError::NoRoom { url: url(), why: never }, "limit_temporary", Disposition::Fail),
            (FetchError::NoRoom { url: url(), why: now }, "no_room", FREE),
            (StoreError::TooLarge { url: url(), limit: 1 }.into(), "limit_bytes", Disposition::Fail),
            (
                StoreError::Unavailable { url: url(), reason: String::new() }.into(),
                "store_unavailable",
                ATTEMPT,
            ),
        ] {
            assert_eq!((error.code(), of_fetching(&error)), (code, expected), "{error}");
        }
    }
}
