//! Items, as a worker creates them and the ledger keeps them.

use flamingo::Task;
use flamingo::generate::Generation;
use flamingo::video::FrameSampling;
use jobs::message::parse;
use jobs::{ItemId, JobId, Stopped};
use serde::{Deserialize, Serialize};

use super::Priority;

/// Schema of [`Item`] in the ledger. Item messages had it too while they were whole items; such messages are still accepted.
pub const ITEM_SCHEMA: &str = "flamingo.item/1";
/// Schema of item messages, which hold ids and lane only. A build that reads version 1 requeues them at no attempt.
pub const ITEM_MESSAGE_SCHEMA: &str = "flamingo.item/2";

/// An item: one video with all of its tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    pub tasks: Vec<Task>,
    pub sampling: FrameSampling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<f64>,
    pub max_frames: usize,
    pub generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
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
