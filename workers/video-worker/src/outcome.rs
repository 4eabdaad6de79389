//! What an error means for the job: the only place that knows which of them may pass.

use flamingo::Error;
use jobs::Failure;
use jobs::store::StoreError;
use jobs::worker::Trouble;

use crate::decoder::DecoderError;
use crate::fetch::FetchError;
use crate::understand::{ModelError, UnderstandError};

/// What now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It would fail again: the report says so.
    Final,
    /// The outside world failed: again later, counted.
    Retry,
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
    }
}

fn of_store(error: &StoreError) -> Verdict {
    if error.is_transient() { Verdict::Retry } else { Verdict::Final }
}

/// `on_cpu`: a processor does not break, so what a model refuses there lies in the input.
pub fn of_understanding(error: &UnderstandError, on_cpu: bool) -> Verdict {
    match error {
        UnderstandError::Decoder(error) => of_decoding(error),
        UnderstandError::Model { source: ModelError::Gone, .. } => Verdict::Unfit,
        UnderstandError::Model { source: ModelError::Unwanted, .. } => Verdict::Cancelled,
        UnderstandError::Model { source: ModelError::Refused(Error::Tensor(_)), .. } if !on_cpu => {
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
        DecoderError::NotStarted { .. } => Verdict::Unfit,
        // A crash may have been another's doing: a machine without memory kills the largest.
        DecoderError::Io { .. } | DecoderError::Crashed { .. } => Verdict::Retry,
    }
}

/// For steps that have no report of their own: listing inputs, writing results.
pub fn trouble(error: &FetchError) -> Trouble {
    let why = Failure::new(error.code(), error.to_string());
    match of_fetching(error) {
        Verdict::Final => Trouble::Fatal(why),
        Verdict::Retry | Verdict::Unfit | Verdict::Cancelled => Trouble::Transient(why),
    }
}

/// Results can be written as soon as the store takes them, whatever it says now: what was worked out is not thrown away.
pub fn store_trouble(error: &StoreError) -> Trouble {
    Trouble::Transient(Failure::new(error.code(), error.to_string()))
}
