//! When something that failed is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// Waiting times that double from `first` to `most`, each shortened at random by up to a half so that many who failed
/// together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    /// How long to wait after so many failures in a row, counted from 1.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Does `work` until it succeeds, fails for good, or `patience` is over; then its last error is the result.
pub async fn insist<T, E, F>(
    backoff: Backoff,
    patience: Duration,
    is_transient: impl Fn(&E) -> bool,
    mut work: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let until = Instant::now() + patience;
    for failures in 1.. {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let delay = backoff.delay(failures);
        if !is_transient(&error) || Instant::now() + delay > until {
            return Err(error);
        }
        tracing::warn!(%error, failures, "trying again");
        tokio::time::sleep(delay).await;
    }
    unreachable!("the loop ends by returning")
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_millis(35) };

    #[test]
    fn delays_double_up_to_the_most() {
        for (failures, full) in [(0, 10), (1, 10), (2, 20), (3, 35), (4, 35), (u32::MAX, 35)] {
            let delay = BACKOFF.delay(failures).as_secs_f64() * 1000.0;
            let full = f64::from(full);
            assert!((full / 2.0..=full).contains(&delay), "{failures} failures: {delay} ms");
        }
    }

    #[tokio::test]
    async fn insists_until_done_hopeless_or_out_of_patience() {
        let mut calls = 0;
        let done = insist(
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
        let hopeless = insist(
            BACKOFF,
            Duration::from_secs(1),
            |_: &&str| false,
            || {
                calls += 1;
                ready(Err::<(), _>("never"))
            },
        );
        assert_eq!(hopeless.await, Err("never"));
        assert_eq!(calls, 1);

        let start = Instant::now();
        let late =
            insist(BACKOFF, Duration::from_millis(100), |_: &&str| true, || ready(Err::<(), _>("away")));
        assert_eq!(late.await, Err("away"));
        assert!(start.elapsed() < Duration::from_millis(300));
    }
}
