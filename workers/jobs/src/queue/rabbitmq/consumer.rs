//! Messages on their way in: a consumer that looks after its own channel.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::link::{bounded, short};
use super::publisher::Address;
use super::topology::ready;
use super::{Broker, Consumer, Delivery, Lane, Message, QueueError, Settle, Settled, wire};
use crate::job::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Takes one message at a time over a channel of its own: a channel that breaks gives back this one message only.
pub(super) struct RabbitConsumer {
    broker: Arc<Broker>,
    lane: Lane,
    session: Option<Session>,
    pause: Duration,
    not_before: Instant,
}

struct Session {
    channel: Channel,
    stream: lapin::Consumer,
    next_look: Instant,
    ready_at_last_look: bool,
}

impl RabbitConsumer {
    pub(super) fn new(broker: Arc<Broker>, lane: Lane) -> Self {
        Self { broker, lane, session: None, pause: FIRST_PAUSE, not_before: Instant::now() }
    }

    /// What the broker brings next, or why it will bring nothing more over this channel.
    async fn receive(&mut self) -> Result<lapin::message::Delivery, QueueError> {
        if self.session.is_none() {
            sleep_until(self.not_before).await;
            self.session = Some(self.open().await?);
        }
        let Some(session) = &mut self.session else { return Err(QueueError("no channel".to_owned())) };
        loop {
            match timeout_at(session.next_look, session.stream.next()).await {
                Ok(Some(Ok(delivery))) => {
                    session.expect_quiet(self.broker.settings.watchdog);
                    self.pause = FIRST_PAUSE;
                    return Ok(delivery);
                }
                Ok(Some(Err(error))) => return Err(QueueError(error.to_string())),
                Ok(None) => return Err(QueueError("the broker has cancelled the consumer".to_owned())),
                Err(_) => {
                    session.look(&self.broker, self.lane).await?;
                    self.pause = FIRST_PAUSE;
                }
            }
        }
    }

    async fn open(&self) -> Result<Session, QueueError> {
        let limit = self.broker.settings.answer_timeout;
        let queue = self.broker.settings.lane(self.lane);
        let channel = self.broker.consuming.channel().await?;
        let qos = channel.basic_qos(1, BasicQosOptions::default());
        bounded(limit, "prefetch", qos).await?;
        let consume = channel.basic_consume(
            short(&queue)?,
            // The broker makes a tag.
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let stream = bounded(limit, format!("queue {queue}"), consume).await?;
        let next_look = Instant::now() + self.broker.settings.watchdog;
        Ok(Session { channel, stream, next_look, ready_at_last_look: false })
    }

    /// Lets the channel go. Whatever was delivered over it and not settled goes back.
    async fn rebuild(&mut self, cause: &QueueError) {
        match self.session.take() {
            Some(session) => session.close(self.broker.settings.answer_timeout),
            // The queue itself may be gone.
            None => self.broker.consuming.distrust().await,
        }
        self.broker.count_rebuild();
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
        tracing::warn!(lane = self.lane.as_str(), %cause, ?pause, "the consumer starts again");
        self.not_before = Instant::now() + pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

impl Session {
    fn expect_quiet(&mut self, watchdog: Duration) {
        self.next_look = Instant::now() + watchdog;
        self.ready_at_last_look = false;
    }

    /// Nothing has come for a while: is the channel alive, and is there really nothing? A queue that has messages for a
    /// consumer that waits may just be handing one over; one that still has them at the next look does not serve it.
    async fn look(&mut self, broker: &Broker, lane: Lane) -> Result<(), QueueError> {
        let limit = broker.settings.answer_timeout;
        let waiting = ready(&self.channel, &broker.settings.lane(lane), limit).await? > 0;
        if waiting && self.ready_at_last_look {
            return Err(QueueError("the queue has messages and delivers none".to_owned()));
        }
        self.expect_quiet(broker.settings.watchdog);
        self.ready_at_last_look = waiting;
        Ok(())
    }

    fn close(self, limit: Duration) {
        // Dropping the handles closes the channel too, but without waiting: asking makes the order certain.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let closed = timeout(limit, self.channel.close(200, "done".into())).await;
            tracing::debug!(?closed, "a consumer's channel is closed");
        });
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Delivery {
        // Safe to drop at every await: a message that has arrived stays in the stream until it is returned from here, and the
        // stream stays in `self`.
        loop {
            match self.receive().await {
                Ok(delivery) => return self.broker.delivery(self.lane, delivery),
                Err(cause) => self.rebuild(&cause).await,
            }
        }
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.close(self.broker.settings.answer_timeout);
        }
    }
}

impl Broker {
    fn delivery(self: &Arc<Self>, lane: Lane, mut delivery: lapin::message::Delivery) -> Delivery {
        let redeliveries = wire::redeliveries(&delivery);
        let attempt = wire::attempt(&delivery);
        let message = wire::message(&mut delivery);
        let settle = RabbitSettle {
            broker: self.clone(),
            lane,
            attempt,
            message: message.clone(),
            acker: delivery.acker,
            runtime: Handle::current(),
        };
        Delivery::new(message, redeliveries, Box::new(settle))
    }
}

struct RabbitSettle {
    broker: Arc<Broker>,
    lane: Lane,
    attempt: u32,
    message: Message,
    acker: Acker,
    runtime: Handle,
}

impl RabbitSettle {
    /// lapin says `Ok(false)` when the channel had ended before. `Known` is as much as AMQP can tell: it was written to a
    /// connection that was up.
    async fn settled(&self, settling: impl Future<Output = lapin::Result<bool>>) -> Settled {
        match timeout(self.broker.settings.answer_timeout, settling).await {
            Ok(Ok(true)) => Settled::Known,
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

    async fn back(self: Box<Self>, after: Duration) -> Result<Settled, QueueError> {
        let Some(tier) = self.broker.tier(after) else {
            return Err(QueueError("no retry delay is configured".to_owned()));
        };
        // Its queue sends the message on with the key it came with.
        let to = Address { exchange: &tier.name, key: self.lane.as_str(), must_arrive: true };
        let properties = wire::properties(&self.message, self.attempt.saturating_add(1));
        self.broker.publisher.publish(to, &self.message.body, properties).await?;
        Ok(self.acknowledge().await)
    }

    async fn release(self: Box<Self>) -> Settled {
        self.settled(self.acker.nack(BasicNackOptions { requeue: true, multiple: false })).await
    }

    async fn bury(self: Box<Self>, why: &Failure) -> Result<Settled, QueueError> {
        let dead = self.broker.settings.dead();
        let to = Address { exchange: &dead, key: self.lane.as_str(), must_arrive: true };
        let properties = wire::dead_properties(&self.message, self.attempt, self.lane.as_str(), why);
        self.broker.publisher.publish(to, &self.message.body, properties).await?;
        Ok(self.acknowledge().await)
    }
}

impl Drop for RabbitSettle {
    fn drop(&mut self) {
        if !self.acker.usable() {
            return;
        }
        // Reject, not nack: from RabbitMQ 4.3 on only a reject counts toward the delivery limit, and a delivery that is
        // dropped may be one that panicked.
        let acker = self.acker.clone();
        self.runtime.spawn(async move {
            let rejected = acker.reject(BasicRejectOptions { requeue: true }).await;
            tracing::debug!(?rejected, "a delivery was dropped");
        });
    }
}
