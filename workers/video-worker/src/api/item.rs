//! Items, as a worker creates them.

use inference::analysis::AnalysisSpec;
use inference::context::Priority;
use jobs::queue::Message;
use jobs::worker::Refusal;
use jobs::{ItemId, JobId};
use serde::{Deserialize, Serialize};

use super::{NoUnknownFields, parse};

/// Schema version of [`ItemMessage`].
pub const ITEM_SCHEMA: &str = "flamingo.item/1";

/// An item: one video with all of its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemMessage {
    pub schema: String,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    pub video: String,
    /// ETag of the listed version; another version is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(flatten)]
    pub spec: AnalysisSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    #[serde(flatten)]
    pub rest: NoUnknownFields,
}

impl ItemMessage {
    /// Parses an item message.
    pub fn parse(message: &Message) -> Result<Self, Refusal> {
        parse(&message.body, ITEM_SCHEMA)
    }

    /// Reads only the priority of an item from the ledger.
    pub fn priority_of(message: &str) -> Priority {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            priority: Priority,
        }
        serde_json::from_str(message).map_or(Priority::Normal, |head: Head| head.priority)
    }
}
