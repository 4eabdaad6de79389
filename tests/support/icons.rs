//! The drawings of SpriteWorld, which `scripts/fetch_icons.py` brings.

use std::path::PathBuf;

use crate::repository;

/// The three icon sets.
///
/// # Panics
/// When they have not been fetched: a test that needs them fails, it never skips.
pub fn icon_sets() -> [PathBuf; 3] {
    ["noto", "twemoji", "fluent-emoji-flat"].map(|set| {
        let path = repository::root().join("data/icons").join(format!("{set}.json"));
        assert!(path.is_file(), "{}: not there: run `python3 scripts/fetch_icons.py`", path.display());
        path
    })
}
