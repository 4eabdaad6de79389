//! Files below a folder.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::SkipReason;

/// File below a folder, or folder that cannot be read.
#[derive(Debug)]
pub struct Entry {
    pub path: PathBuf,
    /// Path relative to the folder.
    pub name: PathBuf,
    pub found: Found,
}

/// Content of an [`Entry`].
#[derive(Debug)]
pub enum Found {
    /// A file, or a symbolic link to nothing: reading it fails and gives the reason.
    File,
    Skipped(SkipReason),
    /// A folder that cannot be read.
    Unreadable(io::Error),
}

/// Lists the files of a folder and of the folders below it, in the order of their names, folder by folder, from the start or
/// after the name `after` of an earlier entry. Symbolic links are followed where they stay within the folder and where
/// `may_follow` allows their target, a path without links.
pub fn walk<'w>(
    folder: &Path,
    after: Option<PathBuf>,
    may_follow: impl Fn(&Path) -> bool + 'w,
) -> impl Iterator<Item = Entry> + 'w {
    let entries = WalkDir::new(folder).min_depth(1).follow_links(true).sort_by_file_name().into_iter();
    let root = folder.to_path_buf();
    let real_root = folder.canonicalize().unwrap_or_else(|_| root.clone());
    Walk { entries, root, real_root, after, may_follow }
}

struct Walk<F> {
    entries: walkdir::IntoIter,
    root: PathBuf,
    /// The folder without links.
    real_root: PathBuf,
    after: Option<PathBuf>,
    may_follow: F,
}

impl<F: Fn(&Path) -> bool> Iterator for Walk<F> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let entry = self.entries.next()?;
            let is_dir = entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir());
            let path = match &entry {
                Ok(entry) => entry.path(),
                Err(error) => error.path().unwrap_or(&self.root),
            };
            let name = path.strip_prefix(&self.root).unwrap_or(path).to_path_buf();
            // Paths compare part by part, in the order of the walk.
            if self.after.as_ref().is_some_and(|after| name <= *after) {
                let leads_to_next =
                    self.after.as_ref().is_some_and(|after| *after != name && after.starts_with(&name));
                if is_dir && !leads_to_next {
                    self.entries.skip_current_dir();
                }
                continue;
            }
            let path = path.to_path_buf();
            let found = match entry {
                Ok(entry) => self.found(&entry, &name),
                Err(error) => Some(failed(error, &name, &path)),
            };
            if is_dir && found.is_some() {
                self.entries.skip_current_dir();
            }
            if let Some(found) = found {
                return Some(Entry { path, name, found });
            }
        }
    }
}

impl<F: Fn(&Path) -> bool> Walk<F> {
    /// Decides about an entry; `None` for a folder to descend into.
    fn found(&self, entry: &DirEntry, name: &Path) -> Option<Found> {
        let kind = entry.file_type();
        if !kind.is_dir() {
            if let Some(reason) = SkipReason::of_name(name.as_os_str().as_bytes()) {
                return Some(Found::Skipped(reason));
            }
            if !kind.is_file() {
                return Some(Found::Skipped(SkipReason::NotAFile));
            }
        }
        if entry.path_is_symlink()
            && let Ok(real) = entry.path().canonicalize()
            && !real.starts_with(&self.real_root)
            && !(self.may_follow)(&real)
        {
            return Some(Found::Skipped(SkipReason::LinkOutside));
        }
        kind.is_file().then_some(Found::File)
    }
}

fn failed(error: walkdir::Error, name: &Path, path: &Path) -> Found {
    if error.loop_ancestor().is_some() {
        return Found::Skipped(SkipReason::LinkLoop);
    }
    let name = name.as_os_str().as_bytes();
    let is_link_to_nothing = path.is_symlink() && !path.exists();
    match error.into_io_error() {
        Some(why) if !is_link_to_nothing => {
            // Only a superuser may read `lost+found`.
            let reason = SkipReason::of_name(&[name, b"/"].concat());
            reason.map_or(Found::Unreadable(why), Found::Skipped)
        }
        _ => SkipReason::of_name(name).map_or(Found::File, Found::Skipped),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    fn write(folder: &Path, name: &[u8]) {
        let path = folder.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    /// Returns each name with its reason, or `-` for a file and `!` for an unreadable folder.
    fn listed(folder: &Path, after: Option<&str>, may_follow: bool) -> Vec<String> {
        let shown = |entry: Entry| {
            let sign = match entry.found {
                Found::File => "-",
                Found::Skipped(reason) => reason.as_str(),
                Found::Unreadable(_) => "!",
            };
            format!("{sign} {}", entry.name.display())
        };
        walk(folder, after.map(PathBuf::from), |_| may_follow).map(shown).collect()
    }

    #[test]
    fn names_are_sorted_folder_by_folder_and_the_walk_continues_after_each() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            &b"b/two.mp4"[..],
            b"b/one.mp4",
            b"b.mp4",
            b"b-c/x.mp4",
            b"a/.x",
            b"b/deep/er/y",
            b"z",
            b"n\xff\n",
        ] {
            write(folder.path(), name);
        }
        let all = listed(folder.path(), None, false);
        let expected = [
            "hidden a/.x",
            "- b/deep/er/y",
            "- b/one.mp4",
            "- b/two.mp4",
            "- b-c/x.mp4",
            "- b.mp4",
            "- n\u{fffd}\n",
            "- z",
        ];
        assert_eq!(all, expected);
        for (n, line) in all.iter().enumerate().filter(|(_, line)| !line.contains('\n')) {
            let (_, name) = line.split_once(' ').unwrap();
            assert_eq!(listed(folder.path(), Some(name), false), all[n + 1..], "after {name}");
        }
    }

    #[test]
    fn links_are_followed_where_they_may_be() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, there) = (folder.path(), outside.path());
        write(here, b"own/a.mp4");
        write(there, b"blobs/b.mp4");
        symlink("own/a.mp4", here.join("within.mp4")).unwrap();
        symlink(there.join("blobs/b.mp4"), here.join("file.mp4")).unwrap();
        symlink(there.join("blobs"), here.join("folder")).unwrap();
        symlink("..", here.join("own/up")).unwrap();
        symlink("nothing", here.join("nothing.mp4")).unwrap();
        symlink("nothing", here.join(".#lock.mp4")).unwrap();
        let left_out = [
            "hidden .#lock.mp4",
            "link_outside file.mp4",
            "link_outside folder",
            "- nothing.mp4",
            "- own/a.mp4",
            "link_loop own/up",
            "- within.mp4",
        ];
        assert_eq!(listed(here, None, false), left_out);
        assert_eq!(listed(here, Some("file.mp4"), false), left_out[2..]);
        assert_eq!(listed(here, Some("folder"), false), left_out[3..]);
        assert_eq!(listed(here, None, true)[1..4], ["- file.mp4", "- folder/b.mp4", "- nothing.mp4"]);
        // The folder itself may be a link.
        symlink(here, there.join("set")).unwrap();
        assert_eq!(listed(&there.join("set"), None, false), left_out);
    }

    #[test]
    fn pipes_and_unreadable_folders_have_entries() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Command::new("mkfifo").arg(folder.path().join("p.mp4")).status().unwrap().success());
        for name in ["closed", "lost+found"] {
            write(folder.path(), format!("{name}/x.mp4").as_bytes());
            std::fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o000)).unwrap();
        }
        // A superuser reads every folder.
        let expected: &[_] = if std::fs::read_dir(folder.path().join("closed")).is_ok() {
            &["- closed/x.mp4", "side_file lost+found/x.mp4", "not_a_file p.mp4"]
        } else {
            &["! closed", "side_file lost+found", "not_a_file p.mp4"]
        };
        assert_eq!(listed(folder.path(), None, false), expected);
        for name in ["closed", "lost+found"] {
            std::fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(0o700)).unwrap();
        }
    }
}
