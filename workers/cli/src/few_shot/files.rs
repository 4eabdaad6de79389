//! Support sets in files: JSON lines, or a directory with one folder per output.

use std::path::{Path, PathBuf};

use anyhow::Context;
use flamingo::few_shot::{SupportExample, SupportSet};

use crate::args::UsageError;
use crate::inputs;
use crate::output::printable;

/// A support set, as it was found.
#[derive(Debug)]
pub struct FoundSet {
    /// Examples whose media are URLs, or paths that this process can open.
    pub set: SupportSet,
    /// Folders of classes without a video or image.
    pub empty: Vec<PathBuf>,
}

impl FoundSet {
    /// Names the folders without a video or image on standard error.
    pub fn warn_of_empty(&self) {
        for folder in &self.empty {
            eprintln!(
                "warning: {}: the class has no video or image",
                printable(&folder.display().to_string())
            );
        }
    }
}

/// Reads a file of JSON lines, or a directory.
///
/// # Errors
/// It cannot be read, or a path is not UTF-8; [`UsageError`]: it is no support set.
pub fn read(path: &Path) -> anyhow::Result<FoundSet> {
    if path.is_dir() { classes(path) } else { lines(path) }
}

fn lines(path: &Path) -> anyhow::Result<FoundSet> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read the support set"))?;
    let wrong = |why: flamingo::few_shot::SupportError| UsageError(format!("{name}: {why}"));
    let set = SupportSet::from_json_lines(&text).map_err(wrong)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let example = |example: &SupportExample| {
        let media = if example.media.contains("://") {
            example.media.clone()
        } else {
            utf8(&folder.join(&example.media))?
        };
        Ok(SupportExample { media, ..example.clone() })
    };
    let examples = set.examples().iter().map(example).collect::<anyhow::Result<_>>()?;
    Ok(FoundSet { set: SupportSet::new(examples).map_err(wrong)?, empty: Vec::new() })
}

/// Reads a directory whose folders are named by the outputs of their files.
fn classes(path: &Path) -> anyhow::Result<FoundSet> {
    let name = path.display();
    let entries = std::fs::read_dir(path).with_context(|| format!("{name}: cannot read the support set"))?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    folders.retain(|folder| folder.is_dir() && !hidden(folder));
    folders.sort();
    let (mut examples, mut empty) = (Vec::new(), Vec::new());
    for folder in folders {
        let output = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(found) = inputs::find(std::slice::from_ref(&folder)) else {
            empty.push(folder);
            continue;
        };
        for input in found.found {
            let media = utf8(&input.path)?;
            examples.push(SupportExample { media, question: None, text: None, output: output.clone() });
        }
    }
    let set = SupportSet::new(examples).map_err(|e| UsageError(format!("{name}: {e}")))?;
    Ok(FoundSet { set, empty })
}

/// Returns a path as text.
///
/// # Errors
/// It is not UTF-8.
pub fn utf8(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().map(String::from);
    text.with_context(|| format!("{}: the name is not UTF-8", path.display()))
}
