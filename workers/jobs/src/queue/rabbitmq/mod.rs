//! RabbitMQ backend, over AMQP 0.9.1.
//!
//! Lanes are quorum queues with a delivery limit, and so are the queues of routes, which the workers with the route declare.
//! A message to a route without a queue comes back to its sender. Messages that exceed it and messages that a worker dead-letters go to the
//! dead-letter queue. A message with a retry delay waits in the queue of a retry tier and expires from there back to its
//! lane. There is one tier per delay, because a queue expires messages only at its head.

mod call;
mod consumer;
mod link;
mod publisher;
mod topology;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

pub use topology::{Argument, Binding, Exchange, QueueSpec, RetryTier, Routes, Topology, topology};

use self::consumer::RabbitConsumer;
use self::link::Link;
use self::publisher::{Destination, Publisher};
use super::{
    Address, Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError, Route, Sent, Settle,
    Settled,
};
use crate::secret_url::SecretUrl;

/// Settings of broker and topology. All workers and submitters of one service need the same ones.
#[derive(Debug, Clone)]
pub struct RabbitSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`.
    pub url: SecretUrl,
    /// Prefix of all exchange and queue names.
    pub name: String,
    /// Declare missing exchanges and queues; otherwise only check that they exist.
    pub declare: bool,
    /// Maximum redeliveries of a message after its consumer was lost.
    pub delivery_limit: u32,
    /// Delays that [`Delivery::retry_after`] can choose from; each is a queue.
    pub retry_delays: Vec<Duration>,
    /// Maximum messages of a lane; it refuses more.
    pub max_length: Option<u32>,
    /// AMQP heartbeat. A connection that is silent for twice as long is dead.
    pub heartbeat: Duration,
    pub connect_timeout: Duration,
    /// Maximum time of a call to the broker, except connecting and publishing.
    pub answer_timeout: Duration,
    /// Maximum time of a publish, including the connection.
    pub publish_timeout: Duration,
    /// Time without messages after which a consumer checks its channel.
    pub watchdog: Duration,
}

impl RabbitSettings {
    /// Returns the default settings for this broker.
    pub fn new(url: SecretUrl) -> Self {
        let seconds = Duration::from_secs;
        Self {
            url,
            name: "flamingo".to_owned(),
            declare: true,
            delivery_limit: 5,
            retry_delays: [5, 30, 120, 600].map(seconds).to_vec(),
            max_length: None,
            heartbeat: seconds(10),
            connect_timeout: seconds(5),
            answer_timeout: seconds(5),
            publish_timeout: seconds(15),
            watchdog: seconds(15),
        }
    }

    fn queue(&self, of: &Address) -> String {
        format!("{}.{}", self.name, of.key())
    }

    fn dead(&self) -> String {
        format!("{}.dead", self.name)
    }

    fn events(&self) -> String {
        format!("{}.events", self.name)
    }
}

/// Queue in a RabbitMQ broker. It connects on first use and reconnects on demand.
pub struct RabbitQueue {
    broker: Arc<Broker>,
}

struct Broker {
    settings: RabbitSettings,
    tiers: Vec<RetryTier>,
    publisher: Publisher,
    consuming: Link,
    reconnects: AtomicU64,
}

impl RabbitQueue {
    /// Creates the queue without connecting, so that a worker may start before its broker. [`check`](Queue::check) connects.
    ///
    /// # Errors
    /// The URL does not name a broker.
    pub fn open(settings: RabbitSettings) -> Result<Self, QueueError> {
        let broker = Broker {
            tiers: topology::retry_tiers(&settings),
            publisher: Publisher::new(&settings)?,
            consuming: Link::new(&settings, "consume")?,
            reconnects: AtomicU64::new(0),
            settings,
        };
        Ok(Self { broker: Arc::new(broker) })
    }

    /// Returns the number of restarted consumers and connections.
    #[cfg(test)]
    pub fn reconnects(&self) -> u64 {
        let broker = &self.broker;
        broker.reconnects.load(Ordering::Relaxed)
            + broker.publisher.link.reconnects()
            + broker.consuming.reconnects()
    }
}

impl Broker {
    fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the shortest tier that is long enough, or else the longest.
    fn tier(&self, after: Duration) -> Option<&RetryTier> {
        self.tiers.iter().find(|tier| tier.delay >= after).or(self.tiers.last())
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    fn name(&self) -> &str {
        &self.broker.settings.name
    }

    async fn send(&self, to: &Address, message: &Message) -> Result<Sent, QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let (key, properties) = (to.key(), wire::properties(message, 0));
        let destination = Destination { exchange: &settings.name, key: &key, mandatory: true };
        match &to.route {
            Some(_) => publisher.offer(destination, &message.body, properties).await,
            None => publisher.publish(destination, &message.body, properties).await.map(|()| Sent::Confirmed),
        }
    }

    async fn publish_event(&self, event: &Event) -> Result<(), QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let message = &event.message;
        let exchange = settings.events();
        let to_all = Destination { exchange: &exchange, key: &event.topic, mandatory: false };
        publisher.publish(to_all, &message.body, wire::properties(message, 0)).await?;
        // AMQP allows no longer queue name. Events must not go to one of our own queues, whatever `reply_to` says.
        let ours = topology(settings).queues;
        let is_ours = |name: &str| {
            let is_route = |lane: Lane| name.starts_with(&format!("{}.", settings.queue(&lane.into())));
            ours.iter().any(|queue| queue.name == name) || Lane::ALL.into_iter().any(is_route)
        };
        let is_valid = |name: &&str| call::short_string(name).is_ok() && !is_ours(name);
        if let Some(queue) = message.reply_to.as_deref().filter(is_valid) {
            // The default exchange routes to the queue of that name.
            let to_sender = Destination { exchange: "", key: queue, mandatory: false };
            publisher.publish(to_sender, &message.body, wire::properties(message, 0)).await?;
        }
        Ok(())
    }

    async fn consumer(&self, of: &Address) -> Box<dyn Consumer> {
        Box::new(RabbitConsumer::new(self.broker.clone(), of.clone()))
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.broker.dead_letters(limit).await
    }

    async fn waiting(&self, at: &Address) -> Result<u64, QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let channel = publisher.link.channel().await?;
        topology::ready(&channel, &settings.queue(at), settings.answer_timeout).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.broker.publisher.link.check().await
    }
}
