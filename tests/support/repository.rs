//! The root folder of the repository.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Returns the folder that the tests were built in, or `FLAMINGO_TEST_ROOT` for tests that run on another machine.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("FLAMINGO_TEST_ROOT") {
        Some(root) => root.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").into(),
    });
    &ROOT
}
