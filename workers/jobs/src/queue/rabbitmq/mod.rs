//! Messages in RabbitMQ, over AMQP 0.9.1.
//!
//! Lanes are quorum queues with a delivery limit; what exceeds it, and what is buried, is in the dead-letter queue. A
//! message that is to come later waits in the queue of a retry tier, from which it expires back to its lane. One tier per
//! delay, because a queue expires its messages only at its head.

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
use self::publisher::{Address, Publisher};
use super::{Consumer, DeadLetter, Delivery, Event, Lane, Message, Queue, QueueError, Settle, Settled};
use crate::job::SecretUrl;

/// Where the broker is, and what it must have. Every worker and submitter of one service needs the same.
#[derive(Debug, Clone)]
pub struct RabbitSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`.
    pub url: SecretUrl,
    /// What the names of all exchanges and queues begin with.
    pub name: String,
    /// Make what is missing in the broker; otherwise only look whether it is there.
    pub declare: bool,
    /// How often a message may come back from consumers that went away with it.
    pub delivery_limit: u32,
    /// The delays that [`Delivery::back`] can choose from; each is a queue.
    pub retry_delays: Vec<Duration>,
    /// A lane with this many messages refuses more.
    pub max_length: Option<u32>,
    /// A connection that is silent for twice as long is dead.
    pub heartbeat: Duration,
    pub connect_timeout: Duration,
    /// How long the broker may take to answer anything but a connection or a publish.
    pub answer_timeout: Duration,
    /// How long a publish may take altogether, connecting included.
    pub publish_timeout: Duration,
    /// How long a consumer waits in silence before it asks whether its channel lives.
    pub watchdog: Duration,
}

impl RabbitSettings {
    /// Everything but the place as a service needs it.
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

    fn lane(&self, lane: Lane) -> String {
        format!("{}.{}", self.name, lane.as_str())
    }

    fn dead(&self) -> String {
        format!("{}.dead", self.name)
    }

    fn events(&self) -> String {
        format!("{}.events", self.name)
    }
}

/// The queue in a RabbitMQ broker. Connects when it is first used, and again whenever it must.
pub struct RabbitQueue {
    broker: Arc<Broker>,
}

struct Broker {
    settings: RabbitSettings,
    tiers: Vec<RetryTier>,
    publisher: Publisher,
    consuming: Link,
    rebuilds: AtomicU64,
}

impl RabbitQueue {
    /// Does not connect yet: a worker may start before its broker. [`check`](Queue::check) says whether it is there.
    ///
    /// # Errors
    /// The URL is none of a broker.
    pub fn open(settings: RabbitSettings) -> Result<Self, QueueError> {
        let broker = Broker {
            tiers: topology::retry_tiers(&settings),
            publisher: Publisher::new(&settings)?,
            consuming: Link::new(&settings, "consume")?,
            rebuilds: AtomicU64::new(0),
            settings,
        };
        Ok(Self { broker: Arc::new(broker) })
    }

    /// How often a consumer had to start again, and a connection to be made again.
    pub fn rebuilds(&self) -> u64 {
        let broker = &self.broker;
        broker.rebuilds.load(Ordering::Relaxed)
            + broker.publisher.link.reconnects()
            + broker.consuming.reconnects()
    }
}

impl Broker {
    fn count_rebuild(&self) {
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
    }

    /// The shortest that is long enough, or else the longest.
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

    async fn send(&self, lane: Lane, message: &Message) -> Result<(), QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let to = Address { exchange: &settings.name, key: lane.as_str(), must_arrive: true };
        publisher.publish(to, &message.body, wire::properties(message, 0)).await
    }

    async fn announce(&self, event: &Event) -> Result<(), QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let message = &event.message;
        let exchange = settings.events();
        let to_all = Address { exchange: &exchange, key: &event.topic, must_arrive: false };
        publisher.publish(to_all, &message.body, wire::properties(message, 0)).await?;
        // No queue has a longer name, so nobody listens there; and news are no jobs, whoever may wish that.
        let ours = topology(settings).queues;
        let is_fit = |name: &&str| link::short(name).is_ok() && ours.iter().all(|queue| queue.name != *name);
        if let Some(queue) = message.reply_to.as_deref().filter(is_fit) {
            // The default exchange leads to the queue of that name.
            let to_asker = Address { exchange: "", key: queue, must_arrive: false };
            publisher.publish(to_asker, &message.body, wire::properties(message, 0)).await?;
        }
        Ok(())
    }

    async fn consumer(&self, lane: Lane) -> Box<dyn Consumer> {
        Box::new(RabbitConsumer::new(self.broker.clone(), lane))
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.broker.dead_letters(limit).await
    }

    async fn waiting(&self, lane: Lane) -> Result<u64, QueueError> {
        let Broker { settings, publisher, .. } = &*self.broker;
        let channel = publisher.link.channel().await?;
        topology::ready(&channel, &settings.lane(lane), settings.answer_timeout).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.broker.publisher.link.check().await
    }
}
