//! Pull of a model: all its repositories into the cache, and the record that makes it usable by name.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::assemble::{Parts, overlay, write_config};
use super::cache::{
    Cache, ModelDirectory, PulledFile, PulledModel, PulledRepo, RECORD_SCHEMA, Record, RepoFolder,
};
use super::catalogue::{self, Assembly, Entry};
use super::choice::{TOKENIZER, choose};
use super::client::Client;
use super::download::Source;
use super::listing::RemoteFile;
use super::name::{DEFAULT_REVISION, ModelName, RepoName, is_commit};
use crate::memory::plan::gigabytes;
use crate::output::{create_folder, write_file};

/// Parts of an assembled model that the user names instead of those of the catalogue: directories or repositories.
#[derive(Debug, Default)]
pub struct Replaced {
    pub language: Option<String>,
    pub vision: Option<String>,
}

/// One repository at one commit, and the files of it that the model needs.
struct Wanted {
    name: ModelName,
    commit: String,
    files: Vec<RemoteFile>,
    folder: RepoFolder,
}

impl Wanted {
    /// Returns the number of bytes that are not on this machine.
    fn missing(&self) -> u64 {
        let length = |path: PathBuf| path.metadata().map_or(0, |found| found.len());
        let missing = |file: &RemoteFile| {
            let digits = file.hash.digits();
            if length(self.folder.blob(digits)) == file.size {
                return 0;
            }
            file.size.saturating_sub(length(self.folder.incomplete(digits)))
        };
        self.files.iter().map(missing).fold(0, u64::saturating_add)
    }

    fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    fn record(&self) -> PulledRepo {
        let file = |file: &RemoteFile| PulledFile {
            path: file.path.clone(),
            size: file.size,
            hash: file.hash.digits().to_owned(),
        };
        PulledRepo {
            repo: self.name.repo.to_string(),
            revision: self.name.revision.clone(),
            commit: self.commit.clone(),
            files: self.files.iter().map(file).collect(),
        }
    }
}

/// A part of an assembled model: a repository to pull, or a directory of the user.
enum Part {
    Repo(Wanted),
    Directory(PathBuf),
}

impl Part {
    fn wanted(&self) -> Option<&Wanted> {
        match self {
            Part::Repo(wanted) => Some(wanted),
            Part::Directory(_) => None,
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Part::Repo(wanted) => wanted.folder.snapshot(&wanted.commit),
            Part::Directory(path) => path.clone(),
        }
    }
}

/// Pulls a model. Files that are on this machine are not downloaded again.
///
/// # Errors
/// A repository does not exist, is gated or has no weights, the hub does not answer, a file is wrong, or the disk is full.
pub fn pull(name: &ModelName, replaced: &Replaced) -> anyhow::Result<ModelDirectory> {
    let (cache, client) = (Cache::from_env()?, Client::from_env()?);
    let entry = catalogue::find(&name.repo);
    let (main, tag) = wanted(&cache, &client, name, entry.and_then(|entry| entry.files.as_deref()))?;
    let main = with_weights(main)?;
    let licence = licence(entry, tag);
    eprintln!("{name}: licence: {licence}");
    let bases = match entry {
        Some(entry) => bases(&cache, &client, entry, replaced)?,
        None => Bases::default(),
    };
    let repos: Vec<&Wanted> = std::iter::once(&main).chain(bases.repos()).collect();
    let missing = check_space(cache.root(), &repos)?;
    let (files, size) = (repos.iter().map(|repo| repo.files.len()).sum::<usize>(), sum(&repos, Wanted::size));
    eprintln!("{name}: {files} files of {}, {} to download", gigabytes(size), gigabytes(missing));
    download_all(&client, &repos)?;
    let record = Record {
        schema: RECORD_SCHEMA.into(),
        name: name.to_string(),
        licence: licence.clone(),
        repositories: repos.iter().map(|repo| repo.record()).collect(),
    };
    let path = bases.join(&main, name)?;
    main.folder.write_record(&main.commit, &record)?;
    // Last: a name is usable when everything is there.
    for repo in repos.iter().rev() {
        write_reference(repo)?;
    }
    Ok(ModelDirectory { path, pulled: Some(PulledModel { name: name.to_string(), licence: Some(licence) }) })
}

/// Licence in plain words, of the catalogue or the model card.
fn licence(entry: Option<&Entry>, tag: Option<String>) -> String {
    match (entry, tag) {
        (Some(entry), _) => entry.licence.clone(),
        (None, Some(tag)) => format!("the model card names `{}`", crate::output::printable(&tag)),
        (None, None) => "unknown; read the model card".into(),
    }
}

/// Asks the hub for the commit and the files of a repository. Returns the licence tag too.
fn wanted(
    cache: &Cache,
    client: &Client,
    name: &ModelName,
    patterns: Option<&[String]>,
) -> anyhow::Result<(Wanted, Option<String>)> {
    let revision = client.revision(&name.repo, &name.revision)?;
    let all = client.files(&name.repo, &revision.commit)?;
    let files = choose(&all, patterns);
    let folder = cache.repo(&name.repo);
    Ok((Wanted { name: name.clone(), commit: revision.commit, files, folder }, revision.licence))
}

/// Checks that a repository has weights.
fn with_weights(wanted: Wanted) -> anyhow::Result<Wanted> {
    let weights = [".safetensors", ".bin", ".pt", ".gguf"];
    if wanted.files.iter().any(|file| weights.iter().any(|extension| file.path.ends_with(extension))) {
        return Ok(wanted);
    }
    bail!("{}: the repository has no weights in a format that this build reads", wanted.name)
}

/// Other repositories that a model needs.
#[derive(Default)]
struct Bases<'e> {
    /// Language model and vision encoder of a checkpoint without them.
    parts: Option<(&'e Assembly, Part, Part)>,
    tokenizer: Option<Wanted>,
}

impl Bases<'_> {
    fn repos(&self) -> impl Iterator<Item = &Wanted> {
        let parts = self.parts.iter().flat_map(|(_, language, vision)| [language.wanted(), vision.wanted()]);
        parts.flatten().chain(&self.tokenizer)
    }

    /// Joins the downloaded repositories to the directory of a model.
    fn join(&self, main: &Wanted, name: &ModelName) -> anyhow::Result<PathBuf> {
        let (folder, snapshot) = (main.folder.pulled(&main.commit), main.folder.snapshot(&main.commit));
        if let Some((assembly, language, vision)) = &self.parts {
            let parts = Parts { checkpoint: snapshot, language: language.path(), vision: vision.path() };
            write_config(&folder, &name.to_string(), assembly, &parts)?;
            return Ok(folder);
        }
        let Some(tokenizer) = &self.tokenizer else { return Ok(snapshot) };
        overlay(&folder, &[snapshot, tokenizer.folder.snapshot(&tokenizer.commit)])?;
        Ok(folder)
    }
}

/// Asks the hub for the other repositories of a model.
fn bases<'e>(
    cache: &Cache,
    client: &Client,
    entry: &'e Entry,
    replaced: &Replaced,
) -> anyhow::Result<Bases<'e>> {
    let part = |named: &Option<String>, usual: &str| {
        let text = named.as_deref().unwrap_or(usual);
        if named.is_some() && Path::new(text).is_dir() {
            return Ok(Part::Directory(text.into()));
        }
        let name = ModelName::parse(text).map_err(crate::args::UsageError)?;
        Ok::<_, anyhow::Error>(Part::Repo(with_weights(wanted(cache, client, &name, None)?.0)?))
    };
    let parts = match &entry.assembly {
        Some(assembly) => {
            let language = part(&replaced.language, &assembly.language)?;
            Some((assembly, language, part(&replaced.vision, &assembly.vision)?))
        }
        None => None,
    };
    let tokenizer = match &entry.tokenizer {
        Some(name) => {
            let name = ModelName::parse(name).map_err(crate::args::UsageError)?;
            let patterns: Vec<String> = TOKENIZER.iter().map(|&name| name.to_owned()).collect();
            Some(wanted(cache, client, &name, Some(&patterns))?.0)
        }
        None => None,
    };
    Ok(Bases { parts, tokenizer })
}

/// Sum of a size over repositories. Sizes come from a server and may be any number.
fn sum(repos: &[&Wanted], size: impl Fn(&Wanted) -> u64) -> u64 {
    repos.iter().map(|repo| size(repo)).fold(0, u64::saturating_add)
}

/// Checks that the missing files fit on the disk. Returns their bytes.
fn check_space(root: &Path, repos: &[&Wanted]) -> anyhow::Result<u64> {
    create_folder(root)?;
    let disk =
        rustix::fs::statvfs(root).with_context(|| format!("{}: no free space is known", root.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let missing = sum(repos, Wanted::missing);
    if missing > free {
        bail!(
            "{}: {} to download, only {} are free; HF_HUB_CACHE names another folder",
            root.display(),
            gigabytes(missing),
            gigabytes(free)
        );
    }
    Ok(missing)
}

fn download_all(client: &Client, repos: &[&Wanted]) -> anyhow::Result<()> {
    let bar = ProgressBar::new(sum(repos, Wanted::size));
    let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    for repo in repos {
        let (folder, commit) = (&repo.folder, repo.commit.as_str());
        let source = Source { client, repo: &repo.name.repo, commit, folder, bar: &bar };
        for file in &repo.files {
            source.fetch(file)?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Writes the commit of a branch or tag, as huggingface_hub does.
fn write_reference(repo: &Wanted) -> anyhow::Result<()> {
    if is_commit(&repo.name.revision) {
        return Ok(());
    }
    let path = repo.folder.reference(&repo.name.revision);
    create_folder(path.parent().context("a reference lies in a folder")?)?;
    write_file(&path, repo.commit.as_bytes())
}

/// Name of a model without revision, and the revision of a flag.
///
/// # Errors
/// One of them has another form.
pub fn named(text: &str, revision: Option<&str>) -> Result<ModelName, String> {
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    super::name::check_revision(revision)?;
    Ok(catalogue::canonical(match text.contains('@') {
        true => ModelName::parse(text)?,
        false => ModelName { repo: RepoName::parse(text)?, revision: revision.into() },
    }))
}
