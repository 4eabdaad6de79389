//! Events about jobs.

use serde::Deserialize;

/// Schema version of job events.
pub const EVENT_SCHEMA: &str = "flamingo.event/1";

/// Reply properties that are read even from a message that is rejected.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplyProperties {
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
}
