//! What can go wrong between us and the store.

use std::error::Error;
use std::io;

use object_store::client::HttpError;

/// The store did not do what was asked for. Texts name the object's URL, never a key or a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{url}: {why}")]
    BadUrl { url: String, why: String },
    #[error("{url}: not there")]
    NotFound { url: String },
    #[error("{url}: access refused: {why}")]
    Forbidden { url: String, why: &'static str },
    #[error("{url}: larger than the limit of {limit} bytes")]
    TooLarge { url: String, limit: u64 },
    #[error("{url}: has changed since it was listed")]
    Changed { url: String },
    /// It cannot be reached, or says that it cannot do its work now.
    #[error("{url}: {why}")]
    Unavailable { url: String, why: String },
    /// It cannot do what is needed, and never will.
    #[error("{url}: this store cannot be used: {why}")]
    Unsupported { url: String, why: String },
    /// A file of this machine could not be read or written.
    #[error("{url}: a file of this machine: {why}")]
    Io { url: String, why: io::Error },
}

const CREDENTIALS: &str = "check the credentials (AWS_*) and what they allow";

impl StoreError {
    /// Names the sort of the error for ever: a part of the public contract.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::BadUrl { .. } => "bad_url",
            StoreError::NotFound { .. } => "not_found",
            StoreError::Forbidden { .. } => "forbidden",
            StoreError::TooLarge { .. } => "limit_bytes",
            StoreError::Changed { .. } => "changed",
            StoreError::Unavailable { .. } => "store_unavailable",
            StoreError::Unsupported { .. } => "unsupported_store",
            StoreError::Io { .. } => "io",
        }
    }

    /// May the same call succeed later, with nothing changed in what it asks for?
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. } | StoreError::Io { .. })
    }

    pub(super) fn new(url: String, error: object_store::Error) -> Self {
        use object_store::Error as Of;
        match error {
            Of::NotFound { .. } => Self::NotFound { url },
            Of::Precondition { .. } | Of::NotModified { .. } => Self::Changed { url },
            // Their texts may quote the request with the access key.
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => {
                Self::Forbidden { url, why: CREDENTIALS }
            }
            Of::InvalidPath { source } => Self::BadUrl { url, why: source.to_string() },
            Of::NotSupported { .. } | Of::NotImplemented { .. } => {
                Self::Unsupported { url, why: error.to_string() }
            }
            Of::Generic { source, .. } => Self::generic(url, source),
            other => Self::Unavailable { url, why: other.to_string() },
        }
    }

    fn generic(url: String, source: Box<dyn Error + Send + Sync>) -> Self {
        if let Some(status) = http_status(&*source) {
            // Only the status: the body of an answer may quote the request.
            return match status {
                401 | 403 => Self::Forbidden { url, why: CREDENTIALS },
                404 => Self::NotFound { url },
                412 => Self::Changed { url },
                408 | 429 => Self::Unavailable { url, why: format!("it goes on answering HTTP {status}") },
                501 => Self::Unsupported { url, why: "it answers HTTP 501 (not implemented)".to_owned() },
                500.. => Self::Unavailable { url, why: format!("it goes on answering HTTP {status}") },
                _ => Self::Unsupported {
                    url,
                    why: format!("it answers HTTP {status}; check bucket, region and endpoint (AWS_*)"),
                },
            };
        }
        let why = causes(&*source).last().map(ToString::to_string).unwrap_or_default();
        match causes(&*source).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => Self::Forbidden { url, why: "this user may not" },
            // On S3 an object and a folder may have the same name; in a file system the one hides the other.
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory) => Self::NotFound { url },
            Some(kind) if !is_network(&*source) => Self::Io { url, why: io::Error::new(kind, why) },
            Some(_) | None => Self::Unavailable { url, why },
        }
    }

    /// The error of a writer, which may hold the store's.
    pub(super) fn of_io(url: String, error: io::Error) -> Self {
        match error.downcast::<object_store::Error>() {
            Ok(error) => Self::new(url, error),
            Err(why) => Self::Io { url, why },
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn is_network(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<HttpError>())
}

/// The status of a refused request. `object_store` has it, but shows it in the text only.
fn http_status(error: &(dyn Error + 'static)) -> Option<u16> {
    causes(error).find_map(|cause| {
        let text = cause.to_string();
        text.strip_prefix("Server returned non-2xx status code: ")?.get(..3)?.parse().ok()
    })
}
