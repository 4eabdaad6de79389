//! A connection that is made when somebody needs it, and made anew after it broke.
//!
//! lapin's own recovery stays off: it does not cover errors of a channel (a consumer's timeout is one), after which a
//! recovering consumer waits for ever.

use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::sync::Mutex;

use super::topology::{Topology, topology};
use super::{QueueError, RabbitSettings};
use crate::job::SecretUrl;

/// One connection to the broker, with everything declared on it.
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
        })
    }

    /// How many connections were made after the first.
    pub(super) fn reconnects(&self) -> u64 {
        self.opened.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// A new channel, over a connection that is up and a topology that is there.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        let mut connection = self.connection.lock().await;
        if !connection.as_ref().is_some_and(|connection| connection.status().connected()) {
            *connection = Some(self.connect().await?);
            self.distrust();
        }
        if !self.is_trusted() {
            let channel = self.open(&mut connection).await?;
            self.settle_topology(&channel).await?;
            self.declared.store(true, Ordering::Relaxed);
        }
        self.open(&mut connection).await
    }

    /// A new channel on which the broker confirms what it has taken.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, QueueError> {
        let channel = self.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        bounded(self.answer_timeout, "publisher confirms", confirms).await?;
        Ok(channel)
    }

    /// Something that was declared may not be there any more: the next channel declares again.
    pub(super) fn distrust(&self) {
        self.declared.store(false, Ordering::Relaxed);
    }

    /// Is everything declared, as far as is known?
    pub(super) fn is_trusted(&self) -> bool {
        self.declared.load(Ordering::Relaxed)
    }

    /// The broker did not answer over this connection: the next channel gets a new one. Channels of the old one keep it
    /// until they end.
    pub(super) fn forget(&self) {
        // Whoever holds the lock is about to find out by itself.
        if let Ok(mut connection) = self.connection.try_lock() {
            *connection = None;
        }
    }

    /// Is everything there?
    pub(super) async fn check(&self) -> Result<(), QueueError> {
        let channel = self.channel().await?;
        let checked = self.topology.check(&channel, self.answer_timeout).await;
        if checked.is_err() {
            self.distrust();
        }
        checked
    }

    async fn settle_topology(&self, channel: &Channel) -> Result<(), QueueError> {
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
        if self.opened.fetch_add(1, Ordering::Relaxed) > 0 {
            tracing::info!(role = self.role, "connected to the queue again");
        }
        Ok(connection)
    }
}

/// The parser's own error repeats the URL with its password, so it is not shown.
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

/// Waits for the broker's answer, but not for ever.
pub(super) async fn bounded<T>(
    limit: Duration,
    what: impl Into<String>,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refused(what, &error)),
        Err(_) => Err(QueueError(format!("{}: no answer within {limit:?}", what.into()))),
    }
}

/// What the broker said, and what to do when that is known.
pub(super) fn refused(what: impl Into<String>, error: &lapin::Error) -> QueueError {
    let what = what.into();
    let ErrorKind::ProtocolError(said) = error.kind() else { return QueueError(format!("{what}: {error}")) };
    let text = said.get_message();
    QueueError(match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
            if text.as_str().contains("inequivalent arg") =>
        {
            format!(
                "{what} exists with other arguments: {text}; delete it when it is empty, or set what it was made with"
            )
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => {
            format!("{what} is not there: {text}; let the worker declare it, or import the definitions")
        }
        _ => format!("{what}: {text}"),
    })
}

/// A name on the wire has 255 bytes; lapin's own conversion panics on more.
pub(super) fn short(text: &str) -> Result<ShortString, QueueError> {
    let shown = || text.chars().take(40).collect::<String>();
    ShortString::try_new(text).map_err(|_| QueueError(format!("{:?}... has more than 255 bytes", shown())))
}
