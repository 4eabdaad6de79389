//! Connection that is opened on demand and reopened after it broke.
//!
//! lapin's own recovery stays off: it does not cover channel errors (a consumer timeout is one), after which a recovering
//! consumer waits for ever.

use std::str::FromStr;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ConnectionStatus};
use tokio::sync::Mutex;

use super::call::bounded;
use super::topology::{Topology, topology};
use super::{QueueError, RabbitSettings};
use crate::secret_url::SecretUrl;

/// Interval of checks whether the broker has blocked a connection.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(20);

/// Connection to the broker, with the topology declared on it.
pub(super) struct Link {
    uri: AMQPUri,
    shown: SecretUrl,
    role: &'static str,
    declare: bool,
    topology: Topology,
    connect_timeout: Duration,
    pub(super) answer_timeout: Duration,
    opened: AtomicU64,
    declared: AtomicBool,
    connection: Mutex<Option<Connection>>,
    /// Status of the last connection.
    status: std::sync::Mutex<Option<ConnectionStatus>>,
}

impl Link {
    pub(super) fn new(settings: &RabbitSettings, role: &'static str) -> Result<Self, QueueError> {
        Ok(Self {
            uri: parse(settings)?,
            shown: settings.url.clone(),
            role,
            declare: settings.declare,
            topology: topology(settings),
            connect_timeout: settings.connect_timeout,
            answer_timeout: settings.answer_timeout,
            opened: AtomicU64::new(0),
            declared: AtomicBool::new(false),
            connection: Mutex::default(),
            status: std::sync::Mutex::default(),
        })
    }

    /// Returns the number of connections after the first one.
    #[cfg(test)]
    pub(super) fn reconnects(&self) -> u64 {
        self.opened.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Opens a channel; connects and declares the topology first where needed.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        let mut connection = self.connection.lock().await;
        if !connection.as_ref().is_some_and(|connection| connection.status().connected()) {
            *connection = Some(self.connect().await?);
            self.invalidate_topology();
        }
        if !self.topology_is_current() {
            let channel = self.open(&mut connection).await?;
            self.ensure_topology(&channel).await?;
            self.declared.store(true, Ordering::Relaxed);
        }
        self.open(&mut connection).await
    }

    /// Opens a channel with publisher confirms.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, QueueError> {
        let channel = self.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        bounded(self.answer_timeout, "publisher confirms", confirms).await?;
        Ok(channel)
    }

    /// Makes the next channel declare the topology again, because something may be missing.
    pub(super) fn invalidate_topology(&self) {
        self.declared.store(false, Ordering::Relaxed);
    }

    /// Returns whether the topology is declared, as far as is known.
    pub(super) fn topology_is_current(&self) -> bool {
        self.declared.load(Ordering::Relaxed)
    }

    /// Drops a connection over which the broker did not answer: the next channel opens a new one. Open channels keep the old
    /// one until they end.
    pub(super) fn drop_connection(&self) {
        // The holder of the lock is using the connection and will find the error itself.
        if let Ok(mut connection) = self.connection.try_lock() {
            *connection = None;
        }
    }

    /// Whether the broker has blocked the connection: it is short of memory or disk and takes no messages.
    pub(super) fn is_blocked(&self) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.as_ref().is_some_and(|status| status.connected() && status.blocked())
    }

    /// Waits until the broker blocks the connection.
    pub(super) async fn blocked(&self) {
        while !self.is_blocked() {
            tokio::time::sleep(BLOCKED_INTERVAL).await;
        }
    }

    /// Checks that everything exists.
    pub(super) async fn check(&self) -> Result<(), QueueError> {
        let channel = self.channel().await?;
        let checked = self.topology.check(&channel, self.answer_timeout).await;
        if checked.is_err() {
            self.invalidate_topology();
        }
        checked
    }

    async fn ensure_topology(&self, channel: &Channel) -> Result<(), QueueError> {
        match self.declare {
            true => self.topology.declare(channel, self.answer_timeout).await,
            false => self.topology.check(channel, self.answer_timeout).await,
        }
    }

    async fn open(&self, connection: &mut Option<Connection>) -> Result<Channel, QueueError> {
        let Some(up) = connection else { return Err(QueueError("not connected".to_owned())) };
        let opened = bounded(self.answer_timeout, "opening a channel", up.create_channel()).await;
        if opened.is_err() {
            *connection = None;
        }
        opened
    }

    async fn connect(&self) -> Result<Connection, QueueError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("jobs: {}", self.role).into());
        let connecting = Connection::connect_uri(self.uri.clone(), properties);
        let what = format!("connecting to {}", self.shown);
        let connection = bounded(self.connect_timeout, what, connecting).await?;
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.status().clone());
        if self.opened.fetch_add(1, Ordering::Relaxed) > 0 {
            tracing::info!(role = self.role, "connected to the queue again");
        }
        Ok(connection)
    }
}

/// Parses the URL. The parser's own error is not shown, because it repeats the URL with its password.
fn parse(settings: &RabbitSettings) -> Result<AMQPUri, QueueError> {
    let mut uri = AMQPUri::from_str(settings.url.reveal()).map_err(|_| {
        let shown = &settings.url;
        QueueError(format!(
            "{shown} is no URL of a RabbitMQ broker; expected amqp://user:password@host:port/vhost"
        ))
    })?;
    uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX));
    uri.query.connection_timeout =
        Some(u64::try_from(settings.connect_timeout.as_millis()).unwrap_or(u64::MAX));
    Ok(uri)
}
