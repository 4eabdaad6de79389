//! Publisher of messages with publisher confirms.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;

use super::call::{broker_error, short_string};
use super::link::Link;
use super::{QueueError, RabbitSettings};

/// Maximum concurrent publishes, and so channels of the connection.
const MAX_PUBLISHES: usize = 32;

/// Publisher with a connection of its own: a broker that is short of memory stops reading from publishing connections, and
/// acknowledgements must not wait for that.
///
/// A channel carries one publish at a time, because lapin attaches a returned message to the next confirm, whichever that is.
/// Over a shared channel, an unroutable message would count as confirmed and a confirmed one as unroutable.
pub(super) struct Publisher {
    pub(super) link: Link,
    idle: Mutex<Vec<Channel>>,
    slots: Semaphore,
    timeout: Duration,
}

/// Destination of a message.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    /// Fail if no queue is bound for the message.
    pub(super) mandatory: bool,
}

impl Publisher {
    pub(super) fn new(settings: &RabbitSettings) -> Result<Self, QueueError> {
        Ok(Self {
            link: Link::new(settings, "publish")?,
            idle: Mutex::default(),
            slots: Semaphore::new(MAX_PUBLISHES),
            timeout: settings.publish_timeout,
        })
    }

    /// Publishes a message, and returns when the broker has confirmed it.
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
                self.link.drop_connection();
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
        let (exchange, key) = (short_string(to.exchange)?, short_string(to.key)?);
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let channel = self.take().await?;
        let options = BasicPublishOptions { mandatory: to.mandatory, ..Default::default() };
        let confirmed =
            async { channel.basic_publish(exchange, key, options, body, properties).await?.await };
        let confirmation = confirmed.await.map_err(|error| {
            self.link.invalidate_topology();
            broker_error(format!("exchange {:?}", to.exchange), &error)
        })?;
        // Reuse only a channel that has answered; dropping any other closes it.
        self.keep(channel);
        self.check_confirmation(to, confirmation)
    }

    fn check_confirmation(&self, to: Address<'_>, confirmation: Confirmation) -> Result<(), QueueError> {
        let Address { exchange, key, .. } = to;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                self.link.invalidate_topology();
                Err(QueueError(format!("unroutable: no queue is bound to exchange {exchange:?} for {key:?}")))
            }
            Confirmation::Nack(_) => Err(QueueError(format!(
                "refused by the broker: a queue behind exchange {exchange:?} for {key:?} is full or has no leader"
            ))),
            Confirmation::NotRequested => Err(QueueError("the channel gives no confirms".to_owned())),
        }
    }

    async fn take(&self) -> Result<Channel, QueueError> {
        while self.link.topology_is_current() {
            let idle = self.idle().pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_) => (),
                None => break,
            }
        }
        self.link.confirming_channel().await
    }

    /// Keeps a channel for reuse. While the topology is not current, every publish opens a channel, so there may be too many.
    fn keep(&self, channel: Channel) {
        let mut idle = self.idle();
        if idle.len() < MAX_PUBLISHES {
            idle.push(channel);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
