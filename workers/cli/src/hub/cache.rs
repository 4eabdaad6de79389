//! Cache of the files of models, in the layout of Python's huggingface_hub (`models--owner--name/{blobs,refs,snapshots}`),
//! which reads what a pull writes. A folder `flamingo` of each repository holds the records of pulls.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::catalogue;
use super::name::{DEFAULT_REVISION, ModelName, RepoName, is_commit};
use crate::args::UsageError;

/// Name of our own small model, which has no owner.
pub const OWN_MODEL: &str = "flamingo-mini";
/// Directory of our own small model.
pub const OWN_DIRECTORY: &str = "models/flamingo-mini";
/// Version of [`Record`].
pub const RECORD_SCHEMA: &str = "flamingo.pulled/1";
const RECORD: &str = "pulled.json";
const CONFIG: &str = "config.json";

/// Folder of all pulled repositories.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache that the environment names, by the rules of huggingface_hub: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `huggingface/hub` in the user's cache folder.
    ///
    /// # Errors
    /// The environment names no cache and no home folder.
    pub fn from_env() -> anyhow::Result<Self> {
        if let Some(root) = path_of("HF_HUB_CACHE") {
            return Ok(Self { root });
        }
        Ok(Self { root: home()?.join("hub") })
    }

    /// Returns the folder of all repositories.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of a repository.
    pub fn repo(&self, repo: &RepoName) -> RepoFolder {
        let folder = repo.folder();
        RepoFolder { folder: self.root.join(&folder), locks: self.root.join(".locks").join(folder) }
    }
}

/// `HF_HOME`, or its default.
///
/// # Errors
/// The environment names no home folder.
pub fn home() -> anyhow::Result<PathBuf> {
    if let Some(home) = path_of("HF_HOME") {
        return Ok(home);
    }
    let caches = path_of("XDG_CACHE_HOME").or_else(|| Some(path_of("HOME")?.join(".cache")));
    let caches = caches.context("no folder for models: set HF_HOME")?;
    Ok(caches.join("huggingface"))
}

fn path_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Folder of one repository in the cache.
#[derive(Debug, Clone)]
pub struct RepoFolder {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    /// Path of a file by its hash.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Path of the part of a file that is downloaded so far.
    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// Path of the lock of a file.
    pub fn lock(&self, hash: &str) -> PathBuf {
        self.locks.join(format!("{hash}.lock"))
    }

    /// Folder of the links to the files of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// File with the commit of a branch or tag.
    pub fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// Folder of the record of a pull.
    pub fn pulled(&self, commit: &str) -> PathBuf {
        self.folder.join("flamingo").join(commit)
    }

    /// Writes the record of a complete pull.
    ///
    /// # Errors
    /// It cannot be written.
    #[cfg(feature = "hub")]
    pub fn write_record(&self, commit: &str, record: &Record) -> anyhow::Result<()> {
        let folder = self.pulled(commit);
        crate::output::create_folder(&folder)?;
        crate::output::write_file(&folder.join(RECORD), serde_json::to_string_pretty(record)?.as_bytes())
    }

    /// Returns the commit of a revision on this machine, if it has one.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = std::fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }
}

/// Record of a complete pull.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Record {
    /// [`RECORD_SCHEMA`].
    pub schema: String,
    /// Name of the model.
    pub name: String,
    /// Licence in plain words.
    pub licence: String,
    /// The repositories of the model, its own first.
    pub repositories: Vec<PulledRepo>,
}

/// One repository of a pulled model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct PulledRepo {
    pub repo: String,
    /// Requested branch, tag or commit.
    pub revision: String,
    /// Commit of the files.
    pub commit: String,
    pub files: Vec<PulledFile>,
}

/// One file of a pulled model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct PulledFile {
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, or for a small file the hash of git, by which it was checked.
    pub hash: String,
}

/// Directory of a model, and the record of its pull.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDirectory {
    pub path: PathBuf,
    /// Absent for a directory that the user named.
    pub pulled: Option<PulledModel>,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct PulledModel {
    /// Name of the model.
    pub name: String,
    /// Licence in plain words, if it is known.
    pub licence: Option<String>,
}

/// Returns the directory of a model: a directory of this name, our own model, or a pulled one.
///
/// # Errors
/// [`UsageError`]: there is no such directory, or the model is not pulled.
pub fn model_directory(model: &Path) -> anyhow::Result<ModelDirectory> {
    if model.is_dir() {
        return Ok(ModelDirectory { path: model.into(), pulled: None });
    }
    let text = model.to_str().unwrap_or_default();
    if text == OWN_MODEL && Path::new(OWN_DIRECTORY).is_dir() {
        return Ok(ModelDirectory { path: OWN_DIRECTORY.into(), pulled: None });
    }
    let names_a_repo = !text.starts_with('.') && ModelName::parse(text).is_ok();
    if !names_a_repo {
        let hint = match catalogue::by_short_name(text) {
            Some(entry) => format!("did you mean {}?", entry.name),
            None => {
                "name one with --model, create an untrained one with `flamingo model init`, or pull one of \
                     `flamingo model list`"
                    .into()
            }
        };
        bail!(UsageError(format!("{}: no such model directory; {hint}", model.display())));
    }
    let name = catalogue::canonical(ModelName::parse(text).map_err(UsageError)?);
    match find(&Cache::from_env()?, &name)? {
        Some(directory) => Ok(directory),
        None => bail!(UsageError(format!(
            "{name}: neither a directory nor a pulled model; pull it with `flamingo model pull {}{}`",
            name.repo,
            if name.revision == DEFAULT_REVISION {
                String::new()
            } else {
                format!(" --revision {}", name.revision)
            },
        ))),
    }
}

/// Finds a pulled model. A snapshot that another program downloaded counts if it describes a model that needs no other
/// repository.
///
/// # Errors
/// A record is unreadable.
pub fn find(cache: &Cache, name: &ModelName) -> anyhow::Result<Option<ModelDirectory>> {
    let folder = cache.repo(&name.repo);
    let Some(commit) = folder.commit(&name.revision) else { return Ok(None) };
    let (pulled, snapshot) = (folder.pulled(&commit), folder.snapshot(&commit));
    let record = pulled.join(RECORD);
    let entry = catalogue::find(&name.repo);
    if record.is_file() {
        let text = std::fs::read_to_string(&record).with_context(|| record.display().to_string())?;
        let read: Record = serde_json::from_str(&text).with_context(|| record.display().to_string())?;
        let path = if pulled.join(CONFIG).is_file() { pulled } else { snapshot };
        let model = PulledModel { name: name.to_string(), licence: Some(read.licence) };
        return Ok(Some(ModelDirectory { path, pulled: Some(model) }));
    }
    if !snapshot.join(CONFIG).is_file() || entry.is_some_and(|entry| !entry.bases().is_empty()) {
        return Ok(None);
    }
    let licence = entry.map(|entry| entry.licence.clone());
    let model = PulledModel { name: name.to_string(), licence };
    Ok(Some(ModelDirectory { path: snapshot, pulled: Some(model) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_models_name_the_command_that_helps() {
        let check = |model: &str, expected: &str| {
            let error = model_directory(Path::new(model)).unwrap_err();
            assert!(error.is::<UsageError>(), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        };
        check("no-owner/no-name", "pull it with `flamingo model pull no-owner/no-name`");
        check("no-owner/no-name@v1", "pull it with `flamingo model pull no-owner/no-name --revision v1`");
        check("./no/such", "./no/such: no such model directory; name one with --model");
        check("idefics-9b", "did you mean HuggingFaceM4/idefics-9b?");
    }
}
