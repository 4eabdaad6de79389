//! Validation of settings.

use std::time::Duration;

use jobs::duration::parse;

use super::{Settings, SettingsError};

/// Shortest allowed token, in characters.
const MIN_TOKEN_LENGTH: usize = 16;

impl Settings {
    /// Rejects values that are meaningless or would make a worker loop.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let Self { queue, worker, resources, inputs, .. } = self;
        let wrong = |setting, reason: String| Err(SettingsError::Invalid { setting, reason });
        if worker.items == 0 {
            return wrong("worker.items", "is 0, so the worker would process nothing".into());
        }
        if worker.attempts == 0 {
            return wrong("worker.attempts", "is 0, so no item would be processed".into());
        }
        if self.decoder.processor_time < Duration::from_secs(1)
            || self.decoder.silence < Duration::from_secs(1)
        {
            return wrong(
                "decoder.processor_time",
                "and decoder.silence are counted in whole seconds; below 1s no video can be decoded".into(),
            );
        }
        if self.decoder.memory < 256 << 20 {
            return wrong("decoder.memory", "is below 256 MiB, too little for most videos".into());
        }
        if resources.memory > 0 && resources.memory < 256 << 20 {
            return wrong(
                "worker.memory",
                "is below 256 MiB, too little for most videos (0: no limit)".into(),
            );
        }
        if inputs.page == 0 {
            return wrong("inputs.page", "is 0, so no input would be listed".into());
        }
        if worker.heartbeat * 2 > worker.lease || worker.heartbeat.is_zero() {
            return wrong(
                "worker.heartbeat",
                "is not below half of worker.lease; one lost heartbeat would lose the claim".into(),
            );
        }
        // The broker takes back a message that is held longer, and its item would never finish. Four steps wait for ledger or
        // store, and the last try of each may take a while.
        let held = worker.item_deadline + worker.retry_timeout * 4 + Duration::from_secs(180);
        if self.is_remote() && held >= queue.consumer_timeout {
            return wrong(
                "worker.item_deadline",
                format!(
                    "and four times worker.retry_timeout and 3 minutes are {} s together, not less than the {} s of \
                     queue.consumer_timeout after which the broker takes a message back; shorten them, or raise \
                     consumer_timeout in the broker and here",
                    held.as_secs(),
                    queue.consumer_timeout.as_secs()
                ),
            );
        }
        if self.is_remote() && inputs.allow.iter().all(String::is_empty) {
            return wrong(
                "inputs.allow",
                "is empty; list the buckets, prefixes and folders that jobs of a shared queue may read"
                    .into(),
            );
        }
        self.retry_delays()?;
        if !self.status.token.is_empty() && self.status.token.len() < MIN_TOKEN_LENGTH {
            return wrong("status.token", format!("is shorter than {MIN_TOKEN_LENGTH} characters"));
        }
        self.places().map(|_| ())
    }
}

/// Parses a delay. The text is not quoted in the error: it may be a misplaced password.
pub(super) fn parse_delay(n: usize, text: &str) -> Result<Duration, SettingsError> {
    let reason = format!("has no duration such as 30s in place {n}");
    let wrong = || SettingsError::Invalid { setting: "queue.retry_delays", reason };
    parse(text).map_err(|_| wrong())
}
