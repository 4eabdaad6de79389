//! Publisher of messages with publisher confirms.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;

use super::call::{broker_error, short_string};
use super::link::Link;
use super::{QueueError, RabbitSettings, Sent};

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
pub(super) struct Destination<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    /// Return the message if no queue is bound for it.
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

    /// Publishes a message, and returns when the broker has confirmed it. A returned message is an error: a queue of the
    /// topology is missing.
    pub(super) async fn publish(
        &self,
        to: Destination<'_>,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), QueueError> {
        match self.offer(to, body, properties).await? {
            Sent::Confirmed => Ok(()),
            Sent::NoQueue => {
                self.link.invalidate_topology();
                let Destination { exchange, key, .. } = to;
                Err(QueueError(format!("unroutable: no queue is bound to exchange {exchange:?} for {key:?}")))
            }
        }
    }

    /// Publishes a message that may be returned, and returns when the broker has confirmed or returned it.
    pub(super) async fn offer(
        &self,
        to: Destination<'_>,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Sent, QueueError> {
        let publishing = tokio::time::timeout(self.timeout, self.try_publish(to, body, properties));
        let done = tokio::select! {
            done = publishing => done,
            // The broker may unblock the connection later, so it stays open.
            () = self.link.blocked() => return Err(QueueError(
                "the broker takes no messages now, because it is short of memory or disk (connection.blocked)".to_owned(),
            )),
        };
        match done {
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
        to: Destination<'_>,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Sent, QueueError> {
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
        check_confirmation(to, confirmation)
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

fn check_confirmation(to: Destination<'_>, confirmation: Confirmation) -> Result<Sent, QueueError> {
    let Destination { exchange, key, .. } = to;
    match confirmation {
        Confirmation::Ack(None) => Ok(Sent::Confirmed),
        Confirmation::Ack(Some(_)) => Ok(Sent::NoQueue),
        Confirmation::Nack(_) => Err(QueueError(format!(
            "refused by the broker: a queue behind exchange {exchange:?} for {key:?} is full or has no leader"
        ))),
        Confirmation::NotRequested => Err(QueueError("the channel gives no confirms".to_owned())),
    }
}
