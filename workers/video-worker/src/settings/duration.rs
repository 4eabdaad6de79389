//! Durations in settings, with the parser of the command line.

use std::time::Duration;

use inference::time::parse_seconds;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

pub use jiff::fmt::serde::unsigned_duration::friendly::compact::required::serialize;

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Parses a duration. The error does not quote the text, which may be a misplaced password.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let seconds = parse_seconds(text)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "longer than any duration")
}
