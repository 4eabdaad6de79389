//! The drawings of SpriteWorld, which `scripts/fetch_icons.py` brings.

use std::path::{Path, PathBuf};

/// The three icon sets.
///
/// # Panics
/// When they have not been fetched: a test that needs them fails, it never skips.
pub fn icon_sets() -> [PathBuf; 3] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    ["noto", "twemoji", "fluent-emoji-flat"].map(|set| {
        let path = root.join("data/icons").join(format!("{set}.json"));
        assert!(path.is_file(), "{}: not there: run `python3 scripts/fetch_icons.py`", path.display());
        path
    })
}
