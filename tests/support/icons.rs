//! The drawings of SpriteWorld that ship in `data/icons`.

use std::path::PathBuf;

use crate::repository;

/// Returns the paths of the three icon sets.
///
/// # Panics
/// A file is missing: a test that needs it fails, it never skips.
pub fn icon_sets() -> [PathBuf; 3] {
    ["noto", "twemoji", "fluent-emoji-flat"].map(|set| {
        let path = repository::root().join("data/icons").join(format!("{set}.json"));
        assert!(path.is_file(), "{}: not there, but the repository ships it", path.display());
        path
    })
}
