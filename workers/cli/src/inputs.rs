//! Files and directories -> the videos and images of a command.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use inference::listing::{EXTENSIONS, Found, SkipReason, Skipped, has_media_extension, parse_file_url, walk};

use crate::args::UsageError;
use crate::output::printable;

/// A video or image, and the name of its result: the path below the named directory, without separators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub path: PathBuf,
    pub name: String,
}

/// Inputs of a command, and the files of its directories that are left out.
#[derive(Debug)]
pub struct Inputs {
    pub found: Vec<Input>,
    skipped: Vec<(PathBuf, SkipReason)>,
}

impl Inputs {
    /// Tells on standard error how many files are left out, and with `verbose` which.
    pub fn print_skipped(&self, verbose: bool) {
        if self.skipped.is_empty() {
            return;
        }
        for (path, reason) in self.skipped.iter().filter(|_| verbose) {
            eprintln!("left out ({reason}): {}", printable(&path.display().to_string()));
        }
        let hint = if verbose { "" } else { " (--verbose names them)" };
        eprintln!("{}{hint}", count(&self.skipped));
    }
}

fn count(skipped: &[(PathBuf, SkipReason)]) -> Skipped {
    let mut counts = Skipped::default();
    skipped.iter().for_each(|(_, reason)| counts.add(*reason));
    counts
}

/// Lists all inputs in order: named files as they are, directories recursively in alphabetical order, links followed.
/// An unreadable file or directory is an input too: it fails when it is decoded, and does not stop the others.
///
/// # Errors
/// [`UsageError`]: there is no input, or a `file://` URL names another machine.
pub fn find(named: &[PathBuf]) -> anyhow::Result<Inputs> {
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for path in named {
        let path = &local_path(path)?;
        if !path.is_dir() {
            found.push((path.clone(), result_name(Path::new(path.file_name().unwrap_or_default()))));
            continue;
        }
        for entry in walk(path, None, |_| true) {
            let reason = match entry.found {
                Found::Skipped(reason) => Some(reason),
                Found::File if is_contact_sheet(&entry.path) => Some(SkipReason::ContactSheet),
                Found::File if !has_media_extension(&entry.path) => Some(SkipReason::NotMatched),
                Found::File | Found::Unreadable(_) => None,
            };
            match reason {
                Some(reason) => skipped.push((entry.path, reason)),
                None => found.push((entry.path, result_name(&entry.name))),
            }
        }
    }
    if found.is_empty() {
        let left_out = if skipped.is_empty() { String::new() } else { format!("; {}", count(&skipped)) };
        bail!(UsageError(format!(
            "no video or image found{left_out}; a directory is searched for these extensions: {}",
            EXTENSIONS.join(" ")
        )));
    }
    Ok(Inputs { found: with_unique_names(found), skipped })
}

/// Returns the path of a named file: a path, or a `file://` URL.
///
/// # Errors
/// [`UsageError`]: the URL names another machine.
pub fn local_path(named: &Path) -> Result<PathBuf, UsageError> {
    match named.to_str().and_then(parse_file_url) {
        Some(path) => path.map_err(|why| UsageError(format!("{}: {why}", named.display()))),
        None => Ok(named.to_path_buf()),
    }
}

/// Whether the file is a contact sheet of an earlier run: `a.mp4.png` next to the report `a.mp4.json`.
fn is_contact_sheet(path: &Path) -> bool {
    let media = path.with_extension("");
    path.extension().is_some_and(|e| e == "png")
        && has_media_extension(&media)
        && path.with_extension("json").exists()
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
        let names: Vec<_> = find(&named).unwrap().found.into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["x.mp4", "x-2.mp4", "x-2-2.mp4", "y", "y-2"]);
    }
}
