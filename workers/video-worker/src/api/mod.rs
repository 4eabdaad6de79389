//! Wire types: messages of the queue, manifests, reports and events. Versioned JSON, untrusted until parsed.

use serde::Serialize;

mod cursor;
mod event;
mod few_shot;
mod glob;
mod item;
mod job;
mod listed;
mod manifest;
mod report;
mod task;
mod unknown;
mod validate;

#[cfg(test)]
mod tests;

pub use cursor::PrefixCursor;
pub use event::{EVENT_SCHEMA, ReplyProperties};
pub use few_shot::{FewShot, SupportHash, SupportName, SupportRef, SupportSource, SupportVersion};
pub use glob::InputGlob;
pub use inference::context::Priority;
pub use item::{ITEM_MESSAGE_SCHEMA, ITEM_SCHEMA, Item};
pub use job::{Input, JOB_SCHEMA, JobMessage, lane};
pub use listed::ListedJob;
pub use manifest::{MANIFEST_SCHEMA, ManifestLine};
pub use report::{
    ErrorLine, FewShotReport, InputInfo, ItemReport, LeftOut, MAX_REPORT_BYTES, REPORT_SCHEMA, job_folder,
    longest_key, report_key, sheet_key,
};
pub use task::{ClassifyOutputs, JobTask};
pub use unknown::NoUnknownFields;

/// Serializes our own types, which cannot fail: their keys are strings.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a message serializes")
}
