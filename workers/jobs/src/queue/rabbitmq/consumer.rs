//! Consumer that maintains a channel of its own.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::call::{bounded, short_string};
use super::publisher::Destination;
use super::topology::{self, ready};
use super::{
    Address, Broker, Consumer, DeadLetter, Delivery, Message, QueueError, RabbitSettings, Settle, Settled,
    wire,
};
use crate::Failure;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// Consumer of one message at a time over its own channel: a broken channel requeues only this message.
pub(super) struct RabbitConsumer {
    broker: Arc<Broker>,
    from: Address,
    state: State,
    delay: Duration,
}

enum State {
    BackingOff {
        until: Instant,
    },
    /// A separate task, so that it completes even if every call of `next` is dropped before the broker answers.
    Opening(AbortOnDropHandle<Result<Session, QueueError>>),
    Open(Box<Session>),
}

/// Consuming channel. Closing it requeues its unsettled message.
struct Session {
    channel: OwnChannel,
    stream: lapin::Consumer,
    queue: String,
    answer_timeout: Duration,
    watchdog: Duration,
    next_check: Instant,
    ready_at_last_check: bool,
}

impl RabbitConsumer {
    pub(super) fn new(broker: Arc<Broker>, from: Address) -> Self {
        Self { broker, from, state: State::BackingOff { until: Instant::now() }, delay: FIRST_DELAY }
    }

    /// Waits for the next message, or returns the error of the channel.
    async fn receive(&mut self) -> Result<lapin::message::Delivery, QueueError> {
        loop {
            match &mut self.state {
                State::BackingOff { until } => {
                    sleep_until(*until).await;
                    let opening = tokio::spawn(Session::open(self.broker.clone(), self.from.clone()));
                    self.state = State::Opening(AbortOnDropHandle::new(opening));
                }
                State::Opening(task) => {
                    let opened = task.await.map_err(|error| QueueError(error.to_string()));
                    self.state = State::Open(Box::new(opened??));
                }
                State::Open(session) => {
                    let delivery = session.receive().await?;
                    self.delay = FIRST_DELAY;
                    return Ok(delivery);
                }
            }
        }
    }

    fn restart(&mut self, cause: &QueueError) {
        // The queue itself may be missing.
        self.broker.consuming.invalidate_topology();
        self.broker.count_reconnect();
        let delay = self.delay.mul_f64(rand::random_range(0.5..1.0));
        tracing::warn!(queue = self.from.key(), %cause, ?delay, "restarting the consumer");
        self.state = State::BackingOff { until: Instant::now() + delay };
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }
}

impl Session {
    async fn open(broker: Arc<Broker>, from: Address) -> Result<Self, QueueError> {
        let RabbitSettings { answer_timeout, watchdog, .. } = broker.settings;
        let queue = broker.settings.queue(&from);
        let channel = OwnChannel { channel: broker.consuming.channel().await?, limit: answer_timeout };
        if let Some(route) = &from.route {
            topology::of_route(&broker.settings, route).declare(&channel, answer_timeout).await?;
        }
        bounded(answer_timeout, "prefetch", channel.basic_qos(1, BasicQosOptions::default())).await?;
        // The broker chooses the tag.
        let (name, tag) = (short_string(&queue)?, "".into());
        let consume = channel.basic_consume(name, tag, BasicConsumeOptions::default(), FieldTable::default());
        let stream = bounded(answer_timeout, format!("queue {queue}"), consume).await?;
        let next_check = Instant::now() + watchdog;
        Ok(Self { channel, stream, queue, answer_timeout, watchdog, next_check, ready_at_last_check: false })
    }

    async fn receive(&mut self) -> Result<lapin::message::Delivery, QueueError> {
        loop {
            match timeout_at(self.next_check, self.stream.next()).await {
                Ok(Some(Ok(delivery))) => {
                    self.next_check = Instant::now() + self.watchdog;
                    self.ready_at_last_check = false;
                    return Ok(delivery);
                }
                Ok(Some(Err(error))) => return Err(QueueError(error.to_string())),
                Ok(None) => return Err(QueueError("the broker has cancelled the consumer".to_owned())),
                Err(_) => self.check_idle_queue().await?,
            }
        }
    }

    /// Checks the channel and the queue after a time without messages. A queue with messages may be delivering one right now;
    /// if it still has messages at the next check, it does not serve this consumer.
    async fn check_idle_queue(&mut self) -> Result<(), QueueError> {
        let waiting = ready(&self.channel, &self.queue, self.answer_timeout).await? > 0;
        if waiting && self.ready_at_last_check {
            return Err(QueueError("the queue has messages and delivers none".to_owned()));
        }
        self.next_check = Instant::now() + self.watchdog;
        self.ready_at_last_check = waiting;
        Ok(())
    }
}

/// Channel that is closed when it is dropped, even during setup. lapin closes a channel only with its last handle, and
/// lapin's list of consumers holds one.
struct OwnChannel {
    channel: Channel,
    limit: Duration,
}

impl Deref for OwnChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for OwnChannel {
    fn drop(&mut self) {
        // Without a runtime there is no call to the broker; the channel then ends with its connection.
        let Ok(runtime) = Handle::try_current() else { return };
        let (channel, limit) = (self.channel.clone(), self.limit);
        runtime.spawn(async move {
            let closed = timeout(limit, channel.close(200, "done".into())).await;
            tracing::debug!(?closed, "a consumer's channel is closed");
        });
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Delivery {
        // Safe to drop at every await: an arrived message stays in the stream until it is returned, and `self` keeps the
        // stream.
        loop {
            match self.receive().await {
                Ok(delivery) => return self.broker.delivery(self.from.key(), delivery),
                Err(cause) => self.restart(&cause),
            }
        }
    }
}

impl Broker {
    fn delivery(self: &Arc<Self>, key: String, mut delivery: lapin::message::Delivery) -> Delivery {
        let redeliveries = wire::redeliveries(&delivery);
        let attempt = wire::attempt(&delivery);
        let message = wire::message(&mut delivery);
        let settle = RabbitSettle {
            broker: self.clone(),
            key,
            attempt,
            message: message.clone(),
            acker: delivery.acker,
            runtime: Handle::current(),
            _channel: None,
        };
        Delivery::new(message, redeliveries, Box::new(settle))
    }

    /// Fetches dead letters one by one over a separate channel. The channel lives as long as a caller holds one of them, and
    /// its end requeues them.
    pub(super) async fn dead_letters(self: &Arc<Self>, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let answer_timeout = self.settings.answer_timeout;
        let channel =
            Arc::new(OwnChannel { channel: self.consuming.channel().await?, limit: answer_timeout });
        let queue = self.settings.dead();
        let mut letters = Vec::new();
        while letters.len() < limit {
            let get = channel.basic_get(short_string(&queue)?, BasicGetOptions::default());
            let Some(got) = bounded(answer_timeout, format!("queue {queue}"), get).await? else { break };
            let mut delivery = got.delivery;
            let key = delivery.routing_key.to_string();
            let lane = Address::lane_of(&key);
            let reason = wire::reason(&delivery);
            let message = wire::message(&mut delivery);
            let settle = RabbitSettle {
                broker: self.clone(),
                key,
                attempt: 0,
                message: message.clone(),
                acker: delivery.acker,
                runtime: Handle::current(),
                _channel: Some(channel.clone()),
            };
            letters.push(DeadLetter { lane, reason, delivery: Delivery::new(message, 0, Box::new(settle)) });
        }
        Ok(letters)
    }
}

struct RabbitSettle {
    broker: Arc<Broker>,
    /// Routing key, which names lane and route.
    key: String,
    attempt: u32,
    message: Message,
    acker: Acker,
    runtime: Handle,
    /// Keeps the channel open until the delivery is settled; a consumer keeps its own.
    _channel: Option<Arc<OwnChannel>>,
}

impl RabbitSettle {
    /// Maps lapin's result: `Ok(false)` means that the channel had ended before. `Confirmed` only means that the frame was
    /// written to an open connection; AMQP gives no more information.
    async fn settled(&self, settling: impl Future<Output = lapin::Result<bool>>) -> Settled {
        match timeout(self.broker.settings.answer_timeout, settling).await {
            Ok(Ok(true)) => Settled::Confirmed,
            Ok(Ok(false) | Err(_)) | Err(_) => Settled::Lost,
        }
    }

    async fn acknowledge(&self) -> Settled {
        self.settled(self.acker.ack(BasicAckOptions::default())).await
    }
}

#[async_trait]
impl Settle for RabbitSettle {
    async fn ack(self: Box<Self>) -> Settled {
        self.acknowledge().await
    }

    async fn retry_after(self: Box<Self>, after: Duration) -> Result<Settled, QueueError> {
        let Some(tier) = self.broker.tier(after) else {
            return Err(QueueError("no retry delay is configured".to_owned()));
        };
        // The tier's queue keeps the routing key.
        let to = Destination { exchange: &tier.name, key: &self.key, mandatory: true };
        let properties = wire::properties(&self.message, self.attempt.saturating_add(1));
        self.broker.publisher.publish(to, &self.message.body, properties).await?;
        Ok(self.acknowledge().await)
    }

    async fn requeue(self: Box<Self>) -> Settled {
        self.settled(self.acker.nack(BasicNackOptions { requeue: true, multiple: false })).await
    }

    async fn dead_letter(self: Box<Self>, reason: &Failure) -> Result<Settled, QueueError> {
        let dead = self.broker.settings.dead();
        let to = Destination { exchange: &dead, key: &self.key, mandatory: true };
        let properties = wire::dead_properties(&self.message, self.attempt, &self.key, reason);
        self.broker.publisher.publish(to, &self.message.body, properties).await?;
        Ok(self.acknowledge().await)
    }
}

impl Drop for RabbitSettle {
    fn drop(&mut self) {
        if !self.acker.usable() {
            return;
        }
        // Reject, not nack: since RabbitMQ 4.3 only a reject counts toward the delivery limit, and a dropped delivery may be
        // due to a panic.
        let acker = self.acker.clone();
        self.runtime.spawn(async move {
            let rejected = acker.reject(BasicRejectOptions { requeue: true }).await;
            tracing::debug!(?rejected, "a delivery was dropped");
        });
    }
}
