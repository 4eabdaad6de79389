//! Durations in settings: `500ms`, `90s`, `1h 30m`, or a number of seconds. For `#[serde(with = "jobs::duration")]`.

use std::time::Duration;

use jiff::SignedDuration;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Reads a duration from a text.
///
/// # Errors
/// As [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Parses a duration.
///
/// # Errors
/// The text is no duration. The error does not quote it: it may be a misplaced password.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text.parse::<SignedDuration>().ok().and_then(|duration| duration.try_into().ok()),
    };
    duration.ok_or("not a duration such as 500ms, 90s or 1h 30m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations() {
        for (text, milliseconds) in [
            ("8", 8_000),
            ("0.5", 500),
            ("8 s", 8_000),
            ("500ms", 500),
            ("20m", 1_200_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "-1s", "nan", "inf", "1e300", "soon"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
