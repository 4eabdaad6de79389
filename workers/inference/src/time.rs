//! Times as text, for options of the command line and for settings.

use jiff::SignedDuration;

/// Parses a time into seconds: a number of seconds (`90`), amounts with units (`500ms`, `1h 30m`), or a clock time
/// (`1:30`, `1:02:03.5`).
///
/// # Errors
/// The text is no such time; the error does not quote it.
pub fn parse_seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = match text.parse::<SignedDuration>() {
        Ok(duration) => Some(duration.as_secs_f64()),
        Err(_) => clock_seconds(text),
    };
    seconds.filter(|s| s.is_finite() && *s >= 0.0).ok_or("not a time such as 8s, 1h 30m, 1:30 or 1:02:03.5")
}

/// Parses `seconds`, `minutes:seconds` or `hours:minutes:seconds`.
fn clock_seconds(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |sum, part| {
        let number = part.parse::<f64>().ok().filter(|n| *n >= 0.0)?;
        Some(sum * 60.0 + number)
    })
}

/// Formats seconds as `minutes:seconds`.
pub fn human_time(seconds: f64) -> String {
    let total = seconds.max(0.0) as u64;
    format!("{}:{:02}", total / 60, total % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_times() {
        for (text, expected) in [
            ("8", 8.0),
            ("8.5", 8.5),
            ("8s", 8.0),
            ("8 s", 8.0),
            ("500ms", 0.5),
            ("2m", 120.0),
            ("1h 30m", 5400.0),
            ("1:30", 90.0),
            ("1:02:03.5", 3723.5),
        ] {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1", "-1s", "1:", "nan", "inf", "1:-2", "soon"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
