//! Direct access to RabbitMQ, without our queue code.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::world::{World, wait};

pub struct Broker<'w> {
    world: &'w World,
    channel: Channel,
    /// The connection closes on drop.
    connection: Connection,
}

/// Message as it was received.
#[derive(Debug)]
pub struct Found {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Found {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns a text header.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.properties.headers().as_ref()?.inner().get(name)?;
        value.as_long_string().map(|text| text.to_string())
    }
}

impl<'w> Broker<'w> {
    pub fn of(world: &'w World) -> Self {
        let url = &world.env.iter().rfind(|(name, _)| name == "FLAMINGO__QUEUE__URL").unwrap().1;
        let (connection, channel) = world.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Self { world, channel, connection }
    }

    /// Sends a message to the jobs lane.
    pub fn send(&self, body: &[u8], properties: BasicProperties) {
        let exchange = self.world.name.as_str();
        self.world.block_on(async {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = self
                .channel
                .basic_publish(exchange.into(), "jobs".into(), options, body, properties)
                .await
                .unwrap();
            let confirmation = sent.await.unwrap();
            assert!(
                confirmation.is_ack() && confirmation.take_message().is_none(),
                "the message was not accepted"
            );
        });
    }

    /// Purges the queue of a lane.
    pub fn purge(&self, lane: &str) {
        let queue = format!("{}.{lane}", self.world.name);
        let purged = self.channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
        assert!(self.world.block_on(purged).unwrap() > 0, "the queue was empty");
    }

    /// Declares a queue for events that match `topic`.
    pub fn subscribe(&self, queue: &str, topic: Option<&str>) {
        let events = format!("{}.events", self.world.name);
        self.world.block_on(async {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
            if let Some(topic) = topic {
                let bind = QueueBindOptions::default();
                self.channel
                    .queue_bind(
                        queue.into(),
                        events.as_str().into(),
                        topic.into(),
                        bind,
                        FieldTable::default(),
                    )
                    .await
                    .unwrap();
            }
        });
    }

    /// Returns whether there is a queue with this name.
    pub fn has_queue(&self, queue: &str) -> bool {
        self.world.block_on(async {
            // The broker closes the channel if there is none.
            let channel = self.connection.create_channel().await.unwrap();
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
        })
    }

    /// Waits for the next message of a queue and removes it.
    #[track_caller]
    pub fn take(&self, queue: &str) -> Found {
        wait(&format!("a message in {queue}"), || self.try_take(queue))
    }

    pub fn try_take(&self, queue: &str) -> Option<Found> {
        let options = BasicGetOptions { no_ack: true };
        let found = self.world.block_on(self.channel.basic_get(queue.into(), options)).unwrap()?;
        Some(Found { body: found.data.clone(), properties: found.properties.clone() })
    }

    /// Waits for the next dead letter and removes it.
    #[track_caller]
    pub fn take_dead(&self) -> Found {
        self.take(&format!("{}.dead", self.world.name))
    }
}
