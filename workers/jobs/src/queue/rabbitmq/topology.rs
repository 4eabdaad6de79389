//! Exchanges, queues and bindings as data: the service declares them, and a test compares them with the definitions that
//! operators import.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ExchangeKind};
use serde::Serialize;

use super::call::{bounded, short_string};
use super::{Address, Lane, QueueError, RabbitSettings, Route};

/// Exchanges, queues and the bindings between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topology {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<QueueSpec>,
    pub bindings: Vec<Binding>,
}

/// Durable exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    pub name: String,
    pub routes: Routes,
}

/// Type of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Routes {
    Direct,
    Fanout,
    Topic,
}

/// Durable queue. The arguments of an existing queue cannot change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueSpec {
    pub name: String,
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// Argument of a queue, serialised as plain JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    Text(String),
    Number(i64),
}

/// Binding of a queue to an exchange by routing key. A fanout exchange ignores the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    pub key: String,
}

/// Queue in which messages wait for their retry, with an exchange of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryTier {
    pub name: String,
    pub delay: Duration,
}

/// Delivery limit of the dead-letter queue: listing dead letters delivers them, and RabbitMQ 4 drops a message after 20
/// deliveries by default.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000_000;

/// Returns the topology for these settings.
pub fn topology(settings: &RabbitSettings) -> Topology {
    let lanes = Lane::ALL.map(Address::from);
    let tiers = retry_tiers(settings);
    let waits = tiers.iter().map(|tier| retry_queue(settings, tier));
    let dead = QueueSpec {
        name: settings.dead(),
        arguments: quorum([("x-delivery-limit", Argument::Number(DEAD_LETTER_DELIVERY_LIMIT))]),
    };
    let fanout = |name: String| Exchange { name, routes: Routes::Fanout };
    let mut exchanges = vec![
        Exchange { name: settings.name.clone(), routes: Routes::Direct },
        Exchange { name: settings.events(), routes: Routes::Topic },
        fanout(settings.dead()),
    ];
    exchanges.extend(tiers.iter().map(|tier| fanout(tier.name.clone())));
    let to_itself = |name: String| Binding { exchange: name.clone(), queue: name, key: String::new() };
    let mut bindings: Vec<Binding> = lanes.iter().map(|lane| lane_binding(settings, lane)).collect();
    bindings.push(to_itself(settings.dead()));
    bindings.extend(tiers.iter().map(|tier| to_itself(tier.name.clone())));
    let lanes = lanes.iter().map(|lane| lane_queue(settings, lane));
    Topology { exchanges, queues: lanes.chain([dead]).chain(waits).collect(), bindings }
}

/// Returns what a worker with a route adds to the topology: the queues of the route and their bindings.
pub(super) fn of_route(settings: &RabbitSettings, route: &Route) -> Topology {
    let addresses = Address::of_route(route);
    Topology {
        exchanges: Vec::new(),
        queues: addresses.iter().map(|address| lane_queue(settings, address)).collect(),
        bindings: addresses.iter().map(|address| lane_binding(settings, address)).collect(),
    }
}

/// Returns the retry tiers, shortest first.
pub fn retry_tiers(settings: &RabbitSettings) -> Vec<RetryTier> {
    let mut delays = settings.retry_delays.clone();
    delays.sort();
    delays.dedup();
    let tier = |delay| RetryTier { name: format!("{}.retry.{}", settings.name, format_delay(delay)), delay };
    delays.into_iter().map(tier).collect()
}

/// Formats a delay in the largest exact unit: `90s`, `5m`, `1h`.
fn format_delay(delay: Duration) -> String {
    let (seconds, millis) = (delay.as_secs(), delay.subsec_millis());
    match seconds {
        _ if millis > 0 => format!("{}ms", delay.as_millis()),
        _ if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

fn lane_binding(settings: &RabbitSettings, address: &Address) -> Binding {
    Binding { exchange: settings.name.clone(), queue: settings.queue(address), key: address.key() }
}

fn lane_queue(settings: &RabbitSettings, address: &Address) -> QueueSpec {
    let mut arguments = quorum([("x-delivery-limit", Argument::Number(settings.delivery_limit.into()))]);
    arguments.extend(safe_dead_letters(settings.dead()));
    if let Some(longest) = settings.max_length {
        arguments.insert("x-max-length", Argument::Number(longest.into()));
    }
    QueueSpec { name: settings.queue(address), arguments }
}

fn retry_queue(settings: &RabbitSettings, tier: &RetryTier) -> QueueSpec {
    let ttl = i64::try_from(tier.delay.as_millis()).unwrap_or(i64::MAX);
    // No x-dead-letter-routing-key: a message keeps its routing key, which names its lane and route.
    let mut arguments = quorum([("x-message-ttl", Argument::Number(ttl))]);
    arguments.extend(safe_dead_letters(settings.name.clone()));
    QueueSpec { name: tier.name.clone(), arguments }
}

fn quorum<const N: usize>(more: [(&'static str, Argument); N]) -> BTreeMap<&'static str, Argument> {
    let mut arguments = BTreeMap::from(more);
    arguments.insert("x-queue-type", Argument::Text("quorum".to_owned()));
    arguments
}

/// Returns arguments for safe dead-lettering. The default strategy loses dead letters when a broker crashes; RabbitMQ refuses
/// at-least-once without reject-publish.
fn safe_dead_letters(exchange: String) -> [(&'static str, Argument); 3] {
    [
        ("x-dead-letter-exchange", Argument::Text(exchange)),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]
}

impl Topology {
    /// Makes what is not there yet. Closes the channel when something is there with other arguments.
    pub(super) async fn declare(&self, channel: &Channel, limit: Duration) -> Result<(), QueueError> {
        for exchange in &self.exchanges {
            exchange.declare(channel, false, limit).await?;
        }
        for queue in &self.queues {
            queue.declare(channel, limit).await?;
        }
        for binding in &self.bindings {
            binding.declare(channel, limit).await?;
        }
        Ok(())
    }

    /// Checks that everything exists. The broker closes the channel if something is missing.
    pub(super) async fn check(&self, channel: &Channel, limit: Duration) -> Result<(), QueueError> {
        for exchange in &self.exchanges {
            exchange.declare(channel, true, limit).await?;
        }
        for queue in &self.queues {
            ready(channel, &queue.name, limit).await?;
        }
        Ok(())
    }
}

impl Exchange {
    async fn declare(&self, channel: &Channel, passive: bool, limit: Duration) -> Result<(), QueueError> {
        let kind = match self.routes {
            Routes::Direct => ExchangeKind::Direct,
            Routes::Fanout => ExchangeKind::Fanout,
            Routes::Topic => ExchangeKind::Topic,
        };
        let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
        let declared =
            channel.exchange_declare(short_string(&self.name)?, kind, options, FieldTable::default());
        bounded(limit, format!("exchange {}", self.name), declared).await
    }
}

impl QueueSpec {
    async fn declare(&self, channel: &Channel, limit: Duration) -> Result<(), QueueError> {
        let mut arguments = FieldTable::default();
        for (name, value) in &self.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
            };
            arguments.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = channel.queue_declare(short_string(&self.name)?, options, arguments);
        bounded(limit, format!("queue {}", self.name), declared).await.map(drop)
    }
}

impl Binding {
    async fn declare(&self, channel: &Channel, limit: Duration) -> Result<(), QueueError> {
        let (queue, exchange, key) =
            (short_string(&self.queue)?, short_string(&self.exchange)?, short_string(&self.key)?);
        let bound =
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
        bounded(limit, format!("binding of queue {}", self.queue), bound).await
    }
}

/// Returns the number of ready messages. The broker closes the channel if there is no such queue.
pub(super) async fn ready(channel: &Channel, queue: &str, limit: Duration) -> Result<u64, QueueError> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let asked = channel.queue_declare(short_string(queue)?, options, FieldTable::default());
    let answer = bounded(limit, format!("queue {queue}"), asked).await?;
    Ok(answer.message_count().into())
}
