//! Where the repository lies.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Where the tests were built, or where `FLAMINGO_TEST_ROOT` says, for tests that were carried to another machine.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("FLAMINGO_TEST_ROOT") {
        Some(root) => root.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").into(),
    });
    &ROOT
}
