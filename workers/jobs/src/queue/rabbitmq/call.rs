//! Calls to the broker: time limits, error texts and names.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::ShortString;

use super::QueueError;

/// Waits for the broker's answer, at most `limit`.
pub(super) async fn bounded<T>(
    limit: Duration,
    what: impl Into<String>,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(broker_error(what, &error)),
        Err(_) => Err(QueueError(format!("{}: no answer within {limit:?}", what.into()))),
    }
}

/// Converts an error of the broker, and adds what to do where that is known.
pub(super) fn broker_error(what: impl Into<String>, error: &lapin::Error) -> QueueError {
    let what = what.into();
    let ErrorKind::ProtocolError(protocol_error) = error.kind() else {
        return QueueError(format!("{what}: {error}"));
    };
    let text = protocol_error.get_message();
    QueueError(match protocol_error.kind() {
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

/// Converts a name to AMQP's short string of at most 255 bytes. lapin's own conversion panics on more.
pub(super) fn short_string(text: &str) -> Result<ShortString, QueueError> {
    let shown = || text.chars().take(40).collect::<String>();
    ShortString::try_new(text).map_err(|_| QueueError(format!("{:?}... has more than 255 bytes", shown())))
}
