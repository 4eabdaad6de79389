//! Items, as a worker creates them and the ledger keeps them.

use flamingo::digest::sha256;
use inference::analysis::AnalysisSpec;
use inference::context::Priority;
use jobs::message::parse;
use jobs::{Failure, ItemId, JobId, Stopped};
use serde::{Deserialize, Serialize};

use super::{FewShot, NoUnknownFields, SupportVersion, json};

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
    pub few_shot: Option<FewShot<SupportVersion>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    #[serde(flatten)]
    pub rest: NoUnknownFields,
}

/// The fields that decide the answers of an item. Their order is part of the hash, which reports keep.
#[derive(Serialize)]
struct ItemRequest<'i> {
    video: &'i str,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'i str>,
    #[serde(flatten)]
    spec: &'i AnalysisSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'i str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    few_shot: Option<&'i FewShot<SupportVersion>>,
}

impl Item {
    /// Returns the SHA-256 of the fields that decide the answers: neither ids nor priority nor output.
    pub fn request_sha256(&self) -> String {
        let Self { video, etag, spec, model, few_shot, .. } = self;
        let (etag, model, few_shot) = (etag.as_deref(), model.as_deref(), few_shot.as_ref());
        let request = ItemRequest { video, etag, spec, model, few_shot };
        sha256(json(&request).as_bytes())
    }

    /// Parses the content of an item from the ledger.
    ///
    /// # Errors
    /// It is malformed or of another version.
    pub fn parse(content: &str) -> Result<Self, Stopped> {
        parse(content.as_bytes(), ITEM_SCHEMA)
    }
}
