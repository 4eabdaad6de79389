//! Directories of models whose parts lie in several repositories.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flamingo::family::CONFIG;
use serde_json::json;

use super::catalogue::Assembly;
use crate::output::{create_folder, write_file};

/// Parts of an OpenFlamingo checkpoint on disk.
pub struct Parts {
    /// Folder of the checkpoint.
    pub checkpoint: PathBuf,
    /// Folder of the language model.
    pub language: PathBuf,
    /// Folder of the vision encoder.
    pub vision: PathBuf,
}

/// Writes `config.json` into `folder`, with paths relative to it, so that the cache can be moved.
///
/// # Errors
/// A part is missing, or the description cannot be written.
pub fn write_config(folder: &Path, name: &str, assembly: &Assembly, parts: &Parts) -> anyhow::Result<()> {
    create_folder(folder)?;
    let relative = |path: &Path| Ok::<_, anyhow::Error>(flamingo::family::native::relative(path, folder)?);
    // Not resolved: the file is a link into the blobs, whose names have no extension.
    let checkpoint = relative(&parts.checkpoint)?.join(checkpoint_file(&parts.checkpoint)?);
    let config = json!({
        "schema": "open_flamingo/1",
        "name": name,
        "checkpoint": checkpoint,
        "language": relative(&parts.language)?,
        "vision": relative(&parts.vision)?,
        "cross_attn_every_n_layers": assembly.cross_attn_every_n_layers,
    });
    write_file(&folder.join(CONFIG), (serde_json::to_string_pretty(&config)? + "\n").as_bytes())
}

/// Links the files of several snapshots in one folder, which a family then reads as one directory. The first file of a name
/// counts.
///
/// # Errors
/// A file cannot be linked.
pub fn overlay(folder: &Path, snapshots: &[PathBuf]) -> anyhow::Result<()> {
    create_folder(folder)?;
    let mut linked = HashSet::new();
    for snapshot in snapshots {
        let up = flamingo::family::native::relative(snapshot, folder)?;
        for entry in std::fs::read_dir(snapshot)? {
            let name = entry?.file_name();
            if linked.insert(name.clone()) {
                replace_link(&up.join(&name), &folder.join(&name))?;
            }
        }
    }
    Ok(())
}

/// Makes `link` a link to `target`, atomically.
///
/// # Errors
/// The link cannot be made.
pub fn replace_link(target: &Path, link: &Path) -> anyhow::Result<()> {
    if std::fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let mut new = link.as_os_str().to_owned();
    new.push(format!(".{}.part", std::process::id()));
    let made = std::os::unix::fs::symlink(target, &new).and_then(|()| std::fs::rename(&new, link));
    made.with_context(|| format!("{}: cannot be linked", link.display()))
}

/// Returns the name of the only `.pt` file of a folder.
fn checkpoint_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|extension| extension == "pt") {
            found.push(name);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        n => bail!("{}: {n} files end with .pt, expected one checkpoint", folder.display()),
    }
}
