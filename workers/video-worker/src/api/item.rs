//! Items, as a worker creates them and the ledger keeps them.

use inference::analysis::AnalysisSpec;
use inference::context::Priority;
use jobs::message::parse;
use jobs::{Failure, ItemId, JobId, Stopped};
use serde::{Deserialize, Serialize};

use super::NoUnknownFields;

/// Schema of [`Item`] in the ledger. Item messages had it too while they were whole items; such messages are still accepted.
pub const ITEM_SCHEMA: &str = "flamingo.item/1";
/// Schema of item messages, which hold ids and lane only. A build that reads version 1 requeues them at no attempt.
pub const ITEM_MESSAGE_SCHEMA: &str = "flamingo.item/2";

/// An item: one video with all of its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub schema: String,
    pub job_id: JobId,
    pub item_id: ItemId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    pub video: String,
    /// ETag of the listed version; another version is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Reason for which the video is not read: the item fails with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failure>,
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

impl Item {
    /// Parses the content of an item from the ledger.
    ///
    /// # Errors
    /// It is malformed or of another version.
    pub fn parse(content: &str) -> Result<Self, Stopped> {
        parse(content.as_bytes(), ITEM_SCHEMA)
    }
}
