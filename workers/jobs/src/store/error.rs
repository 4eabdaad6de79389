//! Errors of the store.

use std::error::Error;
use std::io;

use object_store::client::HttpError;

/// Error of a call to the store. Texts name the object's URL, never an access key or a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{url}: {reason}")]
    BadUrl { url: String, reason: String },
    #[error("{url}: not found")]
    NotFound { url: String },
    #[error("{url}: access refused: {reason}")]
    Forbidden { url: String, reason: &'static str },
    #[error("{url}: larger than the limit of {limit} bytes")]
    TooLarge { url: String, limit: u64 },
    #[error("{url}: has changed since it was listed")]
    Changed { url: String },
    /// It cannot be reached, or answers with a temporary error.
    #[error("{url}: {reason}")]
    Unavailable { url: String, reason: String },
    /// It lacks a required feature.
    #[error("{url}: this store cannot be used: {reason}")]
    Unsupported { url: String, reason: String },
    /// A local file cannot be read or written.
    #[error("{url}: local file: {reason}")]
    Io { url: String, reason: io::Error },
}

/// Codes of S3 and its relatives for keys that no retry makes valid.
const BAD_KEY: [&str; 4] = ["KeyTooLongError", "KeyTooLong", "InvalidObjectName", "XMinioInvalidObjectName"];
/// Codes of S3 for a request that was damaged or late on its way, with the status 400.
const BROKEN_TRANSFER: [&str; 5] =
    ["RequestTimeout", "IncompleteBody", "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"];
/// Codes of S3 for credentials that have expired, with the status 400.
const BAD_CREDENTIALS: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];

const CREDENTIALS: &str = "check the credentials (AWS_*) and what they allow";

impl StoreError {
    /// Returns the stable code of the error, a part of the public contract.
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

    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. } | StoreError::Io { .. })
    }

    pub(super) fn new(url: String, error: object_store::Error) -> Self {
        use object_store::Error as Of;
        match error {
            Of::NotFound { .. } => Self::NotFound { url },
            Of::Precondition { .. } | Of::NotModified { .. } => Self::Changed { url },
            // The texts of these errors may quote the request with the access key.
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => {
                Self::Forbidden { url, reason: CREDENTIALS }
            }
            Of::InvalidPath { source } => Self::BadUrl { url, reason: source.to_string() },
            Of::NotSupported { .. } | Of::NotImplemented { .. } => {
                Self::Unsupported { url, reason: error.to_string() }
            }
            Of::Generic { source, .. } => Self::generic(url, source),
            other => Self::Unavailable { url, reason: other.to_string() },
        }
    }

    fn generic(url: String, source: Box<dyn Error + Send + Sync>) -> Self {
        if let Some(Refusal { status, code }) = refusal(&*source) {
            // Only the status and the code: the body of the response may quote the request.
            let answer = match &code {
                Some(code) => format!("HTTP {status} ({code})"),
                None => format!("HTTP {status}"),
            };
            match code.as_deref() {
                Some(code) if BAD_KEY.contains(&code) => {
                    return Self::BadUrl {
                        url,
                        reason: format!("the store refuses the key: it answers {answer}"),
                    };
                }
                Some(code) if BROKEN_TRANSFER.contains(&code) => {
                    return Self::Unavailable { url, reason: format!("it keeps answering {answer}") };
                }
                Some(code) if BAD_CREDENTIALS.contains(&code) => {
                    return Self::Forbidden { url, reason: CREDENTIALS };
                }
                Some(_) | None => {}
            }
            return match status {
                401 | 403 => Self::Forbidden { url, reason: CREDENTIALS },
                404 => Self::NotFound { url },
                412 => Self::Changed { url },
                414 => Self::BadUrl { url, reason: format!("the key is too long: it answers {answer}") },
                408 | 429 => Self::Unavailable { url, reason: format!("it keeps answering {answer}") },
                501 => Self::Unsupported { url, reason: format!("it answers {answer}: not implemented") },
                500.. => Self::Unavailable { url, reason: format!("it keeps answering {answer}") },
                _ => Self::Unsupported {
                    url,
                    reason: format!("it answers {answer}; check bucket, region and endpoint (AWS_*)"),
                },
            };
        }
        let reason = causes(&*source).last().map(ToString::to_string).unwrap_or_default();
        match causes(&*source).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind) {
            Some(io::ErrorKind::InvalidFilename) => {
                Self::BadUrl { url, reason: "the path or a name in it is too long for the disk".to_owned() }
            }
            Some(io::ErrorKind::PermissionDenied) => Self::Forbidden { url, reason: "permission denied" },
            // On S3 an object and a folder may have the same name; in a file system only one can exist.
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory) => Self::NotFound { url },
            Some(kind) if !is_network(&*source) => Self::Io { url, reason: io::Error::new(kind, reason) },
            Some(_) | None => Self::Unavailable { url, reason },
        }
    }

    /// Converts the error of a writer, which may wrap one of the store.
    pub(super) fn of_io(url: String, error: io::Error) -> Self {
        match error.downcast::<object_store::Error>() {
            Ok(error) => Self::new(url, error),
            Err(reason) => Self::Io { url, reason },
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn is_network(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<HttpError>())
}

/// Answer to a failed request: the HTTP status, and the code of S3 in its body.
struct Refusal {
    status: u16,
    code: Option<String>,
}

/// Returns the answer to a failed request. `object_store` exposes it only in the error text.
fn refusal(error: &(dyn Error + 'static)) -> Option<Refusal> {
    causes(error).find_map(|cause| {
        let text = cause.to_string();
        let answer = text.strip_prefix("Server returned non-2xx status code: ")?;
        let status = answer.get(..3)?.parse().ok()?;
        let code = answer.split_once("<Code>").and_then(|(_, rest)| Some(rest.split_once("</Code>")?.0));
        let is_plain = |code: &&str| code.len() <= 60 && code.chars().all(|c| c.is_ascii_alphanumeric());
        Some(Refusal { status, code: code.filter(is_plain).map(str::to_owned) })
    })
}
