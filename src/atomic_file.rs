//! Atomic writing of files.

use std::ffi::OsString;
use std::fs::{File, remove_file, rename};
use std::io::{Result, Write};
use std::path::{Path, PathBuf};

/// Writes a file so that readers find the old content or the new one, never a part, also after a power failure.
///
/// # Errors
/// The file cannot be written; the old file is unchanged.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// Writes a file as [`write_atomic`] does; `write` writes its content.
///
/// # Errors
/// As [`write_atomic`], or `write` fails.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let part = part_path(path);
    let write = |part: &Path| {
        let mut file = File::create(part)?;
        write(&mut file)?;
        file.sync_all()
    };
    let written = write(&part).and_then(|()| rename(&part, path));
    if written.is_err() {
        let _ = remove_file(&part);
    }
    written
}

/// A temporary name in the same folder, different for each process.
fn part_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{}.part", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        // A folder cannot be replaced by a file.
        std::fs::create_dir(folder.path().join("b")).unwrap();
        write_atomic(&folder.path().join("b"), b"new").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
