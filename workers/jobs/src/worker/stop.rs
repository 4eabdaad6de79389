//! Shutdown of the worker in two stages.

use tokio_util::sync::CancellationToken;

/// Shutdown signal with two stages: first the worker takes no new messages, then it releases the items in flight.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Stop {
    /// Tells the worker to take no new messages.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Tells the worker to release the items in flight, too.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Waits for the first stage.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for the second stage.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns a token that the second stage cancels.
    pub(super) fn abort_token(&self) -> CancellationToken {
        self.abort.child_token()
    }
}
