//! Messages on their way out, each confirmed by the broker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;

use super::link::{Link, refused, short};
use super::{QueueError, RabbitSettings};

/// Publishes at the same time, and so channels of the connection.
const AT_ONCE: usize = 32;

/// Sends over a connection of its own: a broker that is short of memory stops reading from connections that publish, and
/// acknowledgements must not wait behind that.
///
/// A channel carries one publish at a time, because lapin hands a returned message to whichever confirm comes next: over
/// a shared channel an unroutable message would be taken for safe, and a safe one for unroutable.
pub(super) struct Publisher {
    pub(super) link: Link,
    idle: Mutex<Vec<Channel>>,
    slots: Semaphore,
    timeout: Duration,
}

/// Where a message goes.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    /// That no queue is bound for it is an error.
    pub(super) must_arrive: bool,
}

impl Publisher {
    pub(super) fn new(settings: &RabbitSettings) -> Result<Self, QueueError> {
        Ok(Self {
            link: Link::new(settings, "publish")?,
            idle: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            timeout: settings.publish_timeout,
        })
    }

    /// Sends, and returns when the broker has it safely.
    pub(super) async fn publish(
        &self,
        to: Address<'_>,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), QueueError> {
        match tokio::time::timeout(self.timeout, self.try_publish(to, body, properties)).await {
            Ok(done) => done,
            Err(_) => {
                self.idle().clear();
                self.link.forget();
                let limit = self.timeout;
                Err(QueueError(format!(
                    "publish not confirmed within {limit:?}; the broker may be away, or short of memory or disk"
                )))
            }
        }
    }

    async fn try_publish(
        &self,
        to: Address<'_>,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), QueueError> {
        let (exchange, key) = (short(to.exchange)?, short(to.key)?);
        // Never closed, so a permit always comes.
        let _slot = self.slots.acquire().await;
        let channel = self.take().await?;
        let options = BasicPublishOptions { mandatory: to.must_arrive, ..Default::default() };
        let confirmed =
            async { channel.basic_publish(exchange, key, options, body, properties).await?.await };
        let confirmation = confirmed.await.map_err(|error| {
            self.link.distrust();
            refused(format!("exchange {:?}", to.exchange), &error)
        })?;
        // Only a channel that has answered is used again: any other is closed by being dropped.
        self.keep(channel);
        self.judge(to, confirmation)
    }

    fn judge(&self, to: Address<'_>, confirmation: Confirmation) -> Result<(), QueueError> {
        let Address { exchange, key, .. } = to;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                self.link.distrust();
                Err(QueueError(format!("unroutable: no queue is bound to exchange {exchange:?} for {key:?}")))
            }
            Confirmation::Nack(_) => Err(QueueError(format!(
                "refused by the broker: a queue behind exchange {exchange:?} for {key:?} is full or has no leader"
            ))),
            Confirmation::NotRequested => Err(QueueError("the channel gives no confirms".to_owned())),
        }
    }

    async fn take(&self) -> Result<Channel, QueueError> {
        while self.link.is_trusted() {
            let idle = self.idle().pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_) => (),
                None => break,
            }
        }
        self.link.confirming_channel().await
    }

    /// While the link is not trusted every publish opens a channel, so there may be more than are ever used at once.
    fn keep(&self, channel: Channel) {
        let mut idle = self.idle();
        if idle.len() < AT_ONCE {
            idle.push(channel);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
