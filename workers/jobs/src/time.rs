//! Points in time, in milliseconds.

use std::time::Duration;

/// Milliseconds since 1970, UTC. Workers compare times that other workers wrote: leases are seconds long, so a smaller
/// difference between their clocks does no harm.
pub type Millis = i64;

/// Returns the time of this machine's clock.
pub fn now() -> Millis {
    jiff::Timestamp::now().as_millisecond()
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
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times_as_rfc_3339() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
