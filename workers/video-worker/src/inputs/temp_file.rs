//! Files of downloaded videos, which have no name.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// File name prefix of downloads, for file systems that require a name.
const PREFIX: &str = "flamingo-video-";

/// Files older than this belong to dead workers.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// Creates a file without a name.
pub(super) fn temporary_file(folder: &Path) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems (NFS) do not support O_TMPFILE, and old kernels take the flag for an attempt to open the folder.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked_file(folder),
        Err(error) => Err(error.into()),
    }
}

/// Creates a file and unlinks it at once; a process that dies in between leaves an empty file.
fn unlinked_file(folder: &Path) -> std::io::Result<File> {
    let named = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    Ok(named.into_file())
}

/// Removes files that dead workers left in the download folder; returns their number.
///
/// # Errors
/// The folder cannot be read.
pub fn remove_abandoned_files(folder: &Path) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Skip files we cannot stat or delete.
        let age = entry.metadata().ok().and_then(|of| of.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age >= ABANDONED_AFTER) && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn download_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        for make in [temporary_file, unlinked_file] {
            let mut file = make(folder.path()).unwrap();
            std::io::Write::write_all(&mut file, b"bytes").unwrap();
            assert_eq!(names(), 0, "a killed process leaves no file");
        }
        let error = temporary_file(&folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    /// A worker can die while its file has a name.
    #[test]
    fn removes_files_of_dead_workers() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        made("flamingo-video-Ab12Cd", ABANDONED_AFTER * 2);
        made("flamingo-video-Ef34Gh", Duration::ZERO);
        made("unrelated-file", ABANDONED_AFTER * 2);
        assert_eq!(remove_abandoned_files(folder.path()).unwrap(), 1);
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["flamingo-video-Ef34Gh", "unrelated-file"]);
        assert!(remove_abandoned_files(&folder.path().join("missing")).is_err());
    }
}
