//! The words of the ledger: identities, states, ends.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::trace::TraceContext;

/// Milliseconds since 1970, UTC. Workers compare each other's clocks through it: leases are seconds long, so clocks that
/// differ by less do no harm.
pub type Millis = i64;

/// This machine's clock.
pub fn now() -> Millis {
    jiff::Timestamp::now().as_millisecond()
}

/// A moment after another.
pub fn later(at: Millis, by: Duration) -> Millis {
    at.saturating_add(by.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// A moment before another.
pub fn earlier(at: Millis, by: Duration) -> Millis {
    at.saturating_sub(by.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// As people and JSON read it: RFC 3339 with milliseconds.
pub fn timestamp(at: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    format!("{at:.3}")
}

/// Characters of a failure's code, and of its sentence.
const LONGEST_CODE: usize = 64;
const LONGEST_SENTENCE: usize = 1000;

/// Why something has failed for good: a stable code and a sentence. Part of the public contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: String,
    pub message: String,
}

impl Failure {
    /// The sentence may quote what a stranger sent: it is cut, and says nothing to terminals or databases.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let cut = |text: String, longest| text.chars().map(plain).take(longest).collect();
        Self { code: cut(code.into(), LONGEST_CODE), message: cut(message.into(), LONGEST_SENTENCE) }
    }
}

/// Characters that an identity may have: it is a part of object keys and of file names.
fn is_plain(text: &str, longest: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=longest).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.')
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Failure;

            fn try_from(text: String) -> Result<Self, Failure> {
                if is_plain(&text, $longest) {
                    return Ok(Self(text));
                }
                let shown: String = text.chars().take(40).collect();
                Err(Failure::new("bad_id", format!(
                    "{shown:?} is no {}: 1 to {} letters, digits, `.`, `_` or `-`, not beginning with `.`", $what, $longest
                )))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identity!(
    /// Names a job for ever: its folder in the store is called so.
    JobId, "job id", 128
);
identity!(
    /// Names an item within its job: its report is called so.
    ItemId, "item id", 180
);

impl JobId {
    /// A new one, in the order of time (UUID version 7).
    pub fn mint() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

/// Where a job stands. Each state is entered once, in this order; the last five are ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// In the ledger.
    Accepted,
    /// Its inputs are being listed.
    Validating,
    /// Every item is known; none has begun since.
    Queued,
    Running,
    /// Every item has ended; results are being gathered.
    Finalizing,
    Succeeded,
    PartiallySucceeded,
    Failed,
    /// Somebody wanted no more of it; items that had ended keep their results.
    Cancelled,
    /// It was not done by its deadline; items that had ended keep their results.
    Expired,
}

impl JobState {
    pub const ALL: [JobState; 10] = [
        JobState::Accepted,
        JobState::Validating,
        JobState::Queued,
        JobState::Running,
        JobState::Finalizing,
        JobState::Succeeded,
        JobState::PartiallySucceeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Accepted => "accepted",
            JobState::Validating => "validating",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Finalizing => "finalizing",
            JobState::Succeeded => "succeeded",
            JobState::PartiallySucceeded => "partially_succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
        }
    }

    pub fn is_end(self) -> bool {
        self > JobState::Finalizing
    }
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    Queued,
    Running,
    Succeeded,
    Failed,
    /// Its job was ended before it was done; its failure says why.
    Cancelled,
}

impl ItemState {
    pub const ALL: [ItemState; 5] = [
        ItemState::Queued,
        ItemState::Running,
        ItemState::Succeeded,
        ItemState::Failed,
        ItemState::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ItemState::Queued => "queued",
            ItemState::Running => "running",
            ItemState::Succeeded => "succeeded",
            ItemState::Failed => "failed",
            ItemState::Cancelled => "cancelled",
        }
    }

    pub fn is_end(self) -> bool {
        !matches!(self, ItemState::Queued | ItemState::Running)
    }
}

/// How an item has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemEnd {
    Succeeded,
    Failed(Failure),
}

impl ItemEnd {
    pub fn state(&self) -> ItemState {
        match self {
            ItemEnd::Succeeded => ItemState::Succeeded,
            ItemEnd::Failed(_) => ItemState::Failed,
        }
    }

    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ItemEnd::Succeeded => None,
            ItemEnd::Failed(failure) => Some(failure),
        }
    }
}

/// How a job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    Succeeded,
    PartiallySucceeded,
    Failed(Failure),
    /// From outside.
    Early(EarlyEnd),
}

/// A job's end before all of its items have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyEnd {
    Cancelled,
    Expired,
}

impl EarlyEnd {
    /// Which of them a job's failure tells of. No other failure has one of these codes.
    pub fn of(code: &str) -> Option<Self> {
        [EarlyEnd::Cancelled, EarlyEnd::Expired].into_iter().find(|end| end.failure().code == code)
    }

    pub fn state(self) -> JobState {
        match self {
            EarlyEnd::Cancelled => JobState::Cancelled,
            EarlyEnd::Expired => JobState::Expired,
        }
    }

    /// What its job says, and each of the items that had not ended.
    pub fn failure(self) -> Failure {
        match self {
            EarlyEnd::Cancelled => Failure::new("cancelled", "the job was cancelled"),
            EarlyEnd::Expired => Failure::new("deadline_exceeded", "the job's deadline has passed"),
        }
    }
}

impl JobEnd {
    pub fn state(&self) -> JobState {
        match self {
            JobEnd::Succeeded => JobState::Succeeded,
            JobEnd::PartiallySucceeded => JobState::PartiallySucceeded,
            JobEnd::Failed(_) => JobState::Failed,
            JobEnd::Early(end) => end.state(),
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        match self {
            JobEnd::Succeeded | JobEnd::PartiallySucceeded => None,
            JobEnd::Failed(failure) => Some(failure.clone()),
            JobEnd::Early(end) => Some(end.failure()),
        }
    }
}

/// A job that asks to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    pub id: JobId,
    /// The same key and the same request are the same job, whatever its id; the same key and another request are an error.
    /// Without a key of its own a job's id is its key.
    pub key: String,
    /// SHA-256 of what is asked for, without identities.
    pub request_sha256: String,
    /// The message's body as it is sent.
    pub message: String,
    /// Not to be begun before.
    pub not_before: Option<Millis>,
    /// Ended as expired when it has not ended by itself.
    pub deadline: Option<Millis>,
    /// Where the work on it belongs among traces.
    pub trace: TraceContext,
}

impl NewJob {
    /// Why it is not accepted when another job has its id or its key.
    pub fn conflict_with(&self, existing: &JobId) -> Failure {
        let text = format!("{}: job {existing} has this id or key and asks for something else", self.id);
        Failure::new("idempotency_conflict", text)
    }
}

/// An item of a job, as the queue's message about it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewItem {
    pub id: ItemId,
    /// The message's body as it is sent.
    pub message: String,
}

/// How many items of a job stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Counts {
    /// Items that have not ended.
    pub fn open(&self) -> u64 {
        self.queued + self.running
    }
}

/// A URL that may hold a password: shown without it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// With the password: for the library that connects, never for a text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What stands before `://`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Everything up to the last `@` before the path: a password may hold an unescaped `@` or `:`.
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("(not a URL)") };
        let query = |text: &str| text.split('?').next().unwrap_or(text).to_owned();
        match rest.rfind('@') {
            Some(at) => write!(f, "{scheme}://***@{}", query(&rest[at + 1..])),
            None => write!(f, "{scheme}://{}", query(rest)),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_safe_in_keys_and_names() {
        for good in ["a", "01930c2e-7b1c-7000-8000-000000000000", "clip_1.mp4"] {
            assert_eq!(ItemId::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let long = "x".repeat(181);
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\n", "%2e", long.as_str()] {
            assert_eq!(ItemId::try_from(bad.to_owned()).unwrap_err().code, "bad_id", "{bad:?}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("amqp://user:pa@ss/w@host:5672/vhost", "amqp://***@host:5672/vhost"),
            ("postgres://u:p@h/db?password=x", "postgres://***@h/db"),
            ("sqlite://./jobs.db?mode=rwc", "sqlite://./jobs.db"),
            ("memory://", "memory://"),
            ("u:p@h", "(not a URL)"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), shown);
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
