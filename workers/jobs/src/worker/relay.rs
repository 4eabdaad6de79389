//! The relay: what stands in the ledger's outbox is sent and crossed out, whichever worker entered it.

use super::{Service, Step, Worker, in_time};
use crate::job::{later, now};
use crate::ledger::{LedgerError, News};

/// News that are sent in one go. What is more waits for the next one.
const AT_ONCE: usize = 100;

impl<S: Service> Worker<S> {
    /// Sends what is to be sent. What fails is tried again by a sweep.
    pub(super) async fn relay(&self) {
        for _ in 0..AT_ONCE {
            match self.relay_one().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "news wait in the outbox"),
            }
        }
    }

    /// Whether there may be more to send.
    async fn relay_one(&self) -> Result<bool, LedgerError> {
        let Some(news) = in_time(self.ledger.claim_news(now(), self.settings.lease)).await? else {
            return Ok(false);
        };
        if let Err(error) = self.queue.announce(&news.event).await {
            tracing::warn!(job = %news.job, %error, "news cannot be sent now");
            self.postpone(&news).await?;
            return Ok(false);
        }
        self.observer.step(Step::Announced, Some(&news.job), None);
        in_time(self.ledger.told(&news)).await?;
        Ok(true)
    }

    /// Others may have their turn: it could be these news that cannot be sent.
    async fn postpone(&self, news: &News) -> Result<(), LedgerError> {
        in_time(self.ledger.postpone_news(news, later(now(), self.settings.backoff.most))).await
    }
}
