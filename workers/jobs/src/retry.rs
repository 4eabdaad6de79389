//! Retries with exponential backoff.

use std::time::Duration;

use tokio::time::Instant;

/// Delays that double from `first` to `max`. Each is shortened at random by up to a half, so that callers that failed together
/// do not retry together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// Returns the delay after `failures` consecutive failures, counted from 1.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Calls `work` until it succeeds, fails permanently or `timeout` has passed. Returns the last error.
pub async fn retry_with_backoff<T, E, F>(
    backoff: Backoff,
    timeout: Duration,
    is_transient: impl Fn(&E) -> bool,
    mut work: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let until = Instant::now() + timeout;
    for failures in 1.. {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let delay = backoff.delay(failures);
        if !is_transient(&error) || Instant::now() + delay > until {
            return Err(error);
        }
        tracing::warn!(%error, failures, "retrying");
        tokio::time::sleep(delay).await;
    }
    unreachable!("the loop ends by returning")
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(35) };

    #[test]
    fn delays_double_up_to_the_maximum() {
        for (failures, full) in [(0, 10), (1, 10), (2, 20), (3, 35), (4, 35), (u32::MAX, 35)] {
            let delay = BACKOFF.delay(failures).as_secs_f64() * 1000.0;
            let full = f64::from(full);
            assert!((full / 2.0..=full).contains(&delay), "{failures} failures: {delay} ms");
        }
    }

    #[tokio::test]
    async fn insists_until_done_hopeless_or_out_of_patience() {
        let mut calls = 0;
        let done = retry_with_backoff(
            BACKOFF,
            Duration::from_secs(1),
            |_: &&str| true,
            || {
                calls += 1;
                ready(if calls < 4 { Err("not yet") } else { Ok(calls) })
            },
        );
        assert_eq!(done.await, Ok(4));

        let mut calls = 0;
        let permanent = retry_with_backoff(
            BACKOFF,
            Duration::from_secs(1),
            |_: &&str| false,
            || {
                calls += 1;
                ready(Err::<(), _>("never"))
            },
        );
        assert_eq!(permanent.await, Err("never"));
        assert_eq!(calls, 1);

        let start = Instant::now();
        let late = retry_with_backoff(
            BACKOFF,
            Duration::from_millis(100),
            |_: &&str| true,
            || ready(Err::<(), _>("away")),
        );
        assert_eq!(late.await, Err("away"));
        assert!(start.elapsed() < Duration::from_millis(300));
    }
}
