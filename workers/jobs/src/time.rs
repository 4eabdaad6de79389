//! Points in time, in milliseconds, and times in requests.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::duration;

/// Milliseconds since 1970, UTC, by the clock of the ledger's database ([`Ledger::now`](crate::ledger::Ledger::now)).
pub type Millis = i64;

/// Time in a request: a point in time, or a duration that begins when the ledger accepts the job. Only the ledger has the
/// clock that all workers share, so nothing else converts one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTime {
    At(Timestamp),
    AfterAcceptance(Duration),
}

impl RequestTime {
    /// Returns the point in time for a job that is accepted at `accepted_at`.
    pub fn resolve(self, accepted_at: Millis) -> Millis {
        match self {
            RequestTime::At(at) => at.as_millisecond(),
            RequestTime::AfterAcceptance(after) => later(accepted_at, after),
        }
    }
}

impl FromStr for RequestTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(RequestTime::At(at));
        }
        let after = duration::parse(text).ok().filter(|after| SignedDuration::try_from(*after).is_ok());
        after.map(RequestTime::AfterAcceptance).ok_or_else(|| {
            format!(
                "{text:?} is neither a point in time such as 2026-12-24T18:00:00Z nor a duration such as 90s or 2h"
            )
        })
    }
}

impl fmt::Display for RequestTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestTime::At(at) => write!(f, "{at}"),
            RequestTime::AfterAcceptance(after) => {
                write!(f, "{:#}", SignedDuration::try_from(*after).unwrap_or(SignedDuration::MAX))
            }
        }
    }
}

impl Serialize for RequestTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Returns the time `by` after `at`.
pub fn later(at: Millis, by: Duration) -> Millis {
    at.saturating_add(by.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// Returns the time `by` before `at`.
pub fn earlier(at: Millis, by: Duration) -> Millis {
    at.saturating_sub(by.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// Formats a time as RFC 3339 with milliseconds.
pub fn timestamp(at: Millis) -> String {
    let at = Timestamp::from_millisecond(at).unwrap_or_default();
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times_as_rfc_3339() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn request_times_are_resolved_at_acceptance_and_survive_writing() {
        for (text, resolved) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
            ("90s", 91_000),
            ("0.5", 1_500),
            ("1h 30m", 5_401_000),
            ("9e18", Millis::MAX),
        ] {
            let time: RequestTime = text.parse().unwrap();
            assert_eq!(time.resolve(1_000), resolved, "{text}");
            assert_eq!(time.to_string().parse(), Ok(time), "{text}: {time}");
        }
        for text in ["", "soon", "-1s", "2023-11-14", "1e19", "18:00"] {
            assert!(text.parse::<RequestTime>().is_err(), "{text}");
        }
    }
}
