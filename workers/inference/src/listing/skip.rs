//! Reasons for leaving out files and objects.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Reason for leaving out a file or an object. The names are part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// An empty object that stands for a folder: its key ends with `/` or `_$folder$`.
    FolderMarker,
    /// Its name, or the name of a folder above it, begins with `.`.
    Hidden,
    /// A file that a system or a program keeps next to others: thumbnails, metadata, unfinished downloads.
    SideFile,
    /// It does not match the glob, or has no extension of a video or an image.
    NotMatched,
    /// A contact sheet of an earlier run.
    ContactSheet,
    /// A symbolic link to a place that jobs may not read.
    LinkOutside,
    /// A symbolic link to a folder that contains it.
    LinkLoop,
    /// A pipe, a socket or a device.
    NotAFile,
}

/// Folders of side files, without regard to case.
const SIDE_FOLDERS: [&str; 9] = [
    "__MACOSX",
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];
/// Names of side files, without regard to case. macOS writes the icon of a folder into a file whose name ends with CR.
const SIDE_NAMES: [&str; 5] = ["Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Icon\r"];
/// Extensions of unfinished downloads and copies, without regard to case.
const UNFINISHED: [&str; 13] = [
    "part",
    "partial",
    "filepart",
    "crdownload",
    "download",
    "opdownload",
    "aria2",
    "ytdl",
    "!qb",
    "!ut",
    "temp",
    "tmp",
    "swp",
];

impl SkipReason {
    /// Every reason, in the order of the counts.
    pub const ALL: [Self; 8] = [
        Self::FolderMarker,
        Self::Hidden,
        Self::SideFile,
        Self::NotMatched,
        Self::ContactSheet,
        Self::LinkOutside,
        Self::LinkLoop,
        Self::NotAFile,
    ];

    /// Returns the stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FolderMarker => "folder_marker",
            Self::Hidden => "hidden",
            Self::SideFile => "side_file",
            Self::NotMatched => "not_matched",
            Self::ContactSheet => "contact_sheet",
            Self::LinkOutside => "link_outside",
            Self::LinkLoop => "link_loop",
            Self::NotAFile => "not_a_file",
        }
    }

    /// Decides by the name of a file below a folder, a path with `/`. `None`: the name is no reason.
    pub fn of_name(name: &[u8]) -> Option<Self> {
        let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
        // `.` and `..` are no names; they occur in keys of object stores.
        if parts.iter().any(|part| part.starts_with(b".") && !matches!(part, [b'.'] | [b'.', b'.'])) {
            return Some(Self::Hidden);
        }
        let (file, folders) = parts.split_last().expect("a split has a part");
        let is = |known: &str, name: &[u8]| name.eq_ignore_ascii_case(known.as_bytes());
        let in_side_folder = folders.iter().any(|folder| SIDE_FOLDERS.iter().any(|known| is(known, folder)));
        let extension = file.rsplit(|byte| *byte == b'.').next().filter(|found| found.len() < file.len());
        // yt-dlp names the pieces of a download `clip.mp4.part-Frag7`.
        let unfinished = |extension: &[u8]| {
            let piece = extension.get(..5).is_some_and(|head| is("part-", head));
            piece || UNFINISHED.iter().any(|known| is(known, extension))
        };
        let is_side_file = in_side_folder
            || SIDE_NAMES.iter().any(|known| is(known, file))
            || extension.is_some_and(unfinished)
            || file.ends_with(b"~")
            || file.starts_with(b"~$");
        is_side_file.then_some(Self::SideFile)
    }

    /// Decides by the key of an object below a prefix and its size in bytes.
    pub fn of_object(name: &str, bytes: u64) -> Option<Self> {
        if bytes == 0 && (name.ends_with('/') || name.ends_with("_$folder$")) {
            return Some(Self::FolderMarker);
        }
        Self::of_name(name.as_bytes())
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Numbers of files that were left out, by reason. In JSON an object: `{"hidden": 2, "side_file": 1}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped(BTreeMap<SkipReason, u64>);

impl Skipped {
    /// Counts a file.
    pub fn add(&mut self, reason: SkipReason) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// Adds the counts of another list.
    pub fn add_all(&mut self, other: &Self) {
        for (reason, number) in &other.0 {
            *self.0.entry(*reason).or_default() += number;
        }
    }

    /// Returns the number of all files that were left out.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Text such as `3 files left out: 2 hidden, 1 side_file`.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let files = if self.total() == 1 { "file" } else { "files" };
        let counts: Vec<_> = self.0.iter().map(|(reason, number)| format!("{number} {reason}")).collect();
        write!(f, "{} {files} left out: {}", self.total(), counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Option<SkipReason>, names: &[&str]) {
        for name in names {
            assert_eq!(SkipReason::of_name(name.as_bytes()), expected, "{name:?}");
        }
    }

    #[test]
    fn hidden_and_side_files_are_left_out() {
        check(
            Some(SkipReason::Hidden),
            &["._walk.mov", "day/.DS_Store", ".cache/x/walk.mp4", "a/.b.mp4", "day/...mp4"],
        );
        check(
            Some(SkipReason::SideFile),
            &[
                "__MACOSX/walk.mp4",
                "day/__macosx/b/walk.mp4",
                "@eaDir/walk.mp4/SYNOVIDEO_THUMB.jpg",
                "night/THUMBS.DB",
                "desktop.ini",
                "Icon\r",
                "walk.mp4.part",
                "walk.mp4.PART-Frag12.part",
                "walk.mp4.part-Frag12",
                "walk.mp4.crdownload",
                "walk.mp4~",
                "~$walk.mp4",
            ],
        );
        check(
            None,
            &[
                "walk.mp4",
                "a b/c-d_e.MOV",
                "part",
                "party.mp4",
                "eaDir/walk.mp4",
                "my__MACOSX/walk.mp4",
                "./walk.mp4",
                "a//walk.mp4",
                "../walk.mp4",
                "dot.in.name.mp4",
                "",
            ],
        );
    }

    #[test]
    fn only_empty_objects_are_folder_markers() {
        let marker = Some(SkipReason::FolderMarker);
        for (name, bytes, expected) in [
            ("day/", 0, marker),
            (".cache/", 0, marker),
            ("day_$folder$", 0, marker),
            ("day/", 7, None),
            ("day_$folder$", 7, None),
            ("walk.mp4", 0, None),
        ] {
            assert_eq!(SkipReason::of_object(name, bytes), expected, "{name:?}, {bytes} bytes");
        }
    }

    #[test]
    fn counts_have_stable_names() {
        let mut skipped = Skipped::default();
        for reason in [SkipReason::SideFile, SkipReason::Hidden, SkipReason::Hidden] {
            skipped.add(reason);
        }
        assert_eq!(serde_json::to_string(&skipped).unwrap(), r#"{"hidden":2,"side_file":1}"#);
        assert_eq!(skipped.to_string(), "3 files left out: 2 hidden, 1 side_file");
        let mut sum: Skipped = serde_json::from_str(r#"{"link_outside":1}"#).unwrap();
        sum.add_all(&skipped);
        assert_eq!(sum.total(), 4);
        for reason in SkipReason::ALL {
            let name = serde_json::to_value(reason).unwrap();
            assert_eq!(name, reason.as_str());
        }
    }
}
