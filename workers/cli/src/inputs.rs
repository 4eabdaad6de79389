//! Files and directories -> the videos and images of a command.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::args::UsageError;

/// File name extensions that are taken from a directory. A file that is named on the command line needs none of them:
/// the decoder goes by content.
const EXTENSIONS: &str = "3g2 3gp avi gif jpeg jpg m2ts m4v mkv mov mp4 mpeg mpg mts png ts webm webp";

/// A video or image, and the name of its result: the path below the named directory, without separators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub path: PathBuf,
    pub name: String,
}

/// Lists all inputs in order: named files as they are, directories recursively in alphabetical order, links followed.
/// An unreadable file is an input too: it fails when it is decoded, and does not stop the others.
///
/// # Errors
/// [`UsageError`]: there is no input.
pub fn find(named: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut found = Vec::new();
    for path in named {
        if path.is_dir() {
            for file in media_below(path) {
                let name = result_name(file.strip_prefix(path).unwrap_or(&file));
                found.push((file, name));
            }
        } else {
            found.push((path.clone(), result_name(Path::new(path.file_name().unwrap_or_default()))));
        }
    }
    if found.is_empty() {
        bail!(UsageError(format!(
            "no video or image found; a directory is searched for these extensions: {EXTENSIONS}"
        )));
    }
    Ok(with_unique_names(found))
}

fn media_below(directory: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(directory).follow_links(true).sort_by_file_name();
    let media = |entry: Result<walkdir::DirEntry, walkdir::Error>| match entry {
        Ok(entry) => {
            (!entry.file_type().is_dir() && is_media(entry.path()) && !is_contact_sheet(entry.path()))
                .then(|| entry.path().to_path_buf())
        }
        // A link to a parent directory: its files are listed anyway.
        Err(e) if e.loop_ancestor().is_some() => None,
        Err(e) => e.path().filter(|path| is_media(path) || path.is_dir()).map(Path::to_path_buf),
    };
    walk.into_iter().filter_map(media).collect()
}

/// Whether the file is a contact sheet of an earlier run: `a.mp4.png` next to the report `a.mp4.json`.
fn is_contact_sheet(path: &Path) -> bool {
    let media = path.with_extension("");
    path.extension().is_some_and(|e| e == "png") && is_media(&media) && path.with_extension("json").exists()
}

fn is_media(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.split(' ').any(|known| known == e))
}

/// Maximum length of a result name in bytes: leaves room for an extension within the 255 bytes of file systems.
const MAX_NAME_BYTES: usize = 180;

fn result_name(path: &Path) -> String {
    let mut name = path.to_string_lossy().replace('/', "__");
    // Keep the end: it tells more than the beginning.
    let over = name.len().saturating_sub(MAX_NAME_BYTES);
    let cut = (over..).find(|&at| name.is_char_boundary(at)).unwrap_or(over);
    name.split_off(cut)
}

/// Makes names unique: the second `a.mp4` becomes `a-2.mp4`.
fn with_unique_names(found: Vec<(PathBuf, String)>) -> Vec<Input> {
    let mut taken = HashSet::new();
    found
        .into_iter()
        .map(|(path, name)| {
            let mut unique = name.clone();
            for n in 2.. {
                if taken.insert(unique.clone()) {
                    break;
                }
                unique = match name.rsplit_once('.') {
                    Some((stem, extension)) => format!("{stem}-{n}.{extension}"),
                    None => format!("{name}-{n}"),
                };
            }
            Input { path, name: unique }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_long_names_at_character_boundaries() {
        let name = result_name(Path::new(&format!("{}/ä{}.mp4", "d".repeat(90), "é".repeat(89))));
        assert_eq!(name, format!("{}.mp4", "é".repeat(88)));
    }

    #[test]
    fn makes_result_names_unique() {
        let named = ["a/x.mp4", "b/x.mp4", "x-2.mp4", "a/y", "b/y"].map(PathBuf::from);
        let names: Vec<_> = find(&named).unwrap().into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["x.mp4", "x-2.mp4", "x-2-2.mp4", "y", "y-2"]);
    }
}
