//! Cursor of the listing of a prefix, as the ledger keeps it.

use inference::listing::Skipped;
use serde::{Deserialize, Serialize};

/// Cursor of a prefix.
#[derive(Default, Serialize, Deserialize)]
pub struct PrefixCursor {
    /// End of the last page; `None` at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Whether the last page was the last one of the prefix.
    #[serde(default)]
    pub is_complete: bool,
    /// Counts of all pages so far.
    #[serde(default)]
    pub skipped: Skipped,
}

impl PrefixCursor {
    /// Parses a cursor. The cursors of the version before were keys: such a listing starts again, and known items stay.
    pub fn parse(cursor: Option<&str>) -> Self {
        cursor.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}
