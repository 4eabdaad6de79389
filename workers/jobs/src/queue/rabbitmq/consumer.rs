//! Messages on their way in: a consumer that looks after its own channel.

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

use super::link::{bounded, short};
use super::publisher::Address;
use super::topology::ready;
use super::{
    Broker, Consumer, DeadLetter, Delivery, Lane, Message, QueueError, RabbitSettings, Settle, Settled, wire,
};
use crate::job::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Takes one message at a time over a channel of its own: a channel that breaks gives back this one message only.
pub(super) struct RabbitConsumer {
    broker: Arc<Broker>,
    lane: Lane,
    state: State,
    pause: Duration,
}

enum State {
    Pausing {
        until: Instant,
    },
    /// A task of its own, so that it gets on even when every call of `next` is dropped sooner than the broker answers.
    Opening(AbortOnDropHandle<Result<Session, QueueError>>),
    Open(Box<Session>),
}

/// A channel that consumes. With its end, what came over it unsettled goes back.
struct Session {
    channel: OwnChannel,
    stream: lapin::Consumer,
    queue: String,
    answer_timeout: Duration,
    watchdog: Duration,
    next_look: Instant,
    ready_at_last_look: bool,
}

impl RabbitConsumer {
    pub(super) fn new(broker: Arc<Broker>, lane: Lane) -> Self {
        Self { broker, lane, state: State::Pausing { until: Instant::now() }, pause: FIRST_PAUSE }
    }

    /// What the broker brings next, or why it will bring nothing more over this channel.
    async fn receive(&mut self) -> Result<lapin::message::Delivery, QueueError> {
        loop {
            match &mut self.state {
                State::Pausing { until } => {
                    sleep_until(*until).await;
                    let opening = tokio::spawn(Session::open(self.broker.clone(), self.lane));
                    self.state = State::Opening(AbortOnDropHandle::new(opening));
                }
                State::Opening(task) => {
                    let opened = task.await.map_err(|error| QueueError(error.to_string()));
                    self.state = State::Open(Box::new(opened??));
                }
                State::Open(session) => {
                    let delivery = session.receive().await?;
                    self.pause = FIRST_PAUSE;
                    return Ok(delivery);
                }
            }
        }
    }

    fn start_again(&mut self, cause: &QueueError) {
        // What is missing may be the queue itself.
        self.broker.consuming.distrust();
        self.broker.count_rebuild();
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
        tracing::warn!(lane = self.lane.as_str(), %cause, ?pause, "the consumer starts again");
        self.state = State::Pausing { until: Instant::now() + pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

impl Session {
    async fn open(broker: Arc<Broker>, lane: Lane) -> Result<Self, QueueError> {
        let RabbitSettings { answer_timeout, watchdog, .. } = broker.settings;
        let queue = broker.settings.lane(lane);
        let channel = OwnChannel { channel: broker.consuming.channel().await?, limit: answer_timeout };
        bounded(answer_timeout, "prefetch", channel.basic_qos(1, BasicQosOptions::default())).await?;
        // The broker thinks of a tag.
        let (name, tag) = (short(&queue)?, "".into());
        let consume = channel.basic_consume(name, tag, BasicConsumeOptions::default(), FieldTable::default());
        let stream = bounded(answer_timeout, format!("queue {queue}"), consume).await?;
        let next_look = Instant::now() + watchdog;
        Ok(Self { channel, stream, queue, answer_timeout, watchdog, next_look, ready_at_last_look: false })
    }

    async fn receive(&mut self) -> Result<lapin::message::Delivery, QueueError> {
        loop {
            match timeout_at(self.next_look, self.stream.next()).await {
                Ok(Some(Ok(delivery))) => {
                    self.next_look = Instant::now() + self.watchdog;
                    self.ready_at_last_look = false;
                    return Ok(delivery);
                }
                Ok(Some(Err(error))) => return Err(QueueError(error.to_string())),
                Ok(None) => return Err(QueueError("the broker has cancelled the consumer".to_owned())),
                Err(_) => self.look().await?,
            }
        }
    }

    /// Nothing has come for a while: is the channel alive, and is there really nothing? A queue that has messages for a
    /// consumer that waits may just be handing one over; one that still has them at the next look does not serve it.
    async fn look(&mut self) -> Result<(), QueueError> {
        let waiting = ready(&self.channel, &self.queue, self.answer_timeout).await? > 0;
        if waiting && self.ready_at_last_look {
            return Err(QueueError("the queue has messages and delivers none".to_owned()));
        }
        self.next_look = Instant::now() + self.watchdog;
        self.ready_at_last_look = waiting;
        Ok(())
    }
}

/// A channel that is closed when it is dropped, even while it is only being prepared. lapin does that by itself only when
/// the last handle goes, and its list of consumers holds one.
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
        // Outside a runtime nobody can ask the broker; the channel then ends with its connection.
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
        // Safe to drop at every await: a message that has arrived stays in the stream until it is returned from here, and the
        // stream stays in `self`.
        loop {
            match self.receive().await {
                Ok(delivery) => return self.broker.delivery(self.lane, delivery),
                Err(cause) => self.start_again(&cause),
            }
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
            _channel: None,
        };
        Delivery::new(message, redeliveries, Box::new(settle))
    }

    /// Fetched one by one over a channel of their own, which lives as long as one of them is held: its end gives them back.
    pub(super) async fn dead_letters(self: &Arc<Self>, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let answer_timeout = self.settings.answer_timeout;
        let channel =
            Arc::new(OwnChannel { channel: self.consuming.channel().await?, limit: answer_timeout });
        let queue = self.settings.dead();
        let mut letters = Vec::new();
        while letters.len() < limit {
            let get = channel.basic_get(short(&queue)?, BasicGetOptions::default());
            let Some(got) = bounded(answer_timeout, format!("queue {queue}"), get).await? else { break };
            let mut delivery = got.delivery;
            let key = delivery.routing_key.to_string();
            let lane = Lane::ALL.into_iter().find(|lane| lane.as_str() == key);
            let why = wire::reason(&delivery);
            let message = wire::message(&mut delivery);
            let settle = RabbitSettle {
                broker: self.clone(),
                lane: lane.unwrap_or(Lane::Items),
                attempt: 0,
                message: message.clone(),
                acker: delivery.acker,
                runtime: Handle::current(),
                _channel: Some(channel.clone()),
            };
            letters.push(DeadLetter { lane, why, delivery: Delivery::new(message, 0, Box::new(settle)) });
        }
        Ok(letters)
    }
}

struct RabbitSettle {
    broker: Arc<Broker>,
    lane: Lane,
    attempt: u32,
    message: Message,
    acker: Acker,
    runtime: Handle,
    /// Kept open until this is settled; a consumer keeps its own.
    _channel: Option<Arc<OwnChannel>>,
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
