//! Download of one file into the cache: resumed, checked by size and hash, and renamed when it is right.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;

use super::assemble::replace_link;
use super::cache::RepoFolder;
use super::client::{Body, Client, Failure};
use super::hash::Hasher;
use super::listing::RemoteFile;
use super::name::RepoName;
use crate::output::create_folder;

/// Bytes per read.
const CHUNK: usize = 1 << 20;

/// Source of the files of one commit.
pub struct Source<'s> {
    pub client: &'s Client,
    pub repo: &'s RepoName,
    pub commit: &'s str,
    pub folder: &'s RepoFolder,
    /// Progress in bytes.
    pub bar: &'s ProgressBar,
}

impl Source<'_> {
    /// Brings a file into the cache, unless it is there, and links it in the snapshot of the commit.
    ///
    /// # Errors
    /// The hub refuses it or does not answer, its size or hash is wrong, or the disk is full.
    pub fn fetch(&self, file: &RemoteFile) -> anyhow::Result<()> {
        self.bar.set_message(file.path.clone());
        let blob = self.folder.blob(file.hash.digits());
        create_folder(blob.parent().context("a blob lies in a folder")?)?;
        // Another pull of the same file holds the lock until the file is complete.
        let _lock = self.lock(file)?;
        if blob.metadata().is_ok_and(|found| found.len() == file.size) {
            self.bar.inc(file.size);
        } else {
            self.download(file, &blob)?;
        }
        link(self.folder, self.commit, &file.path, file.hash.digits())
    }

    fn lock(&self, file: &RemoteFile) -> anyhow::Result<File> {
        let path = self.folder.lock(file.hash.digits());
        create_folder(path.parent().context("a lock lies in a folder")?)?;
        let error = || format!("{}: cannot be locked", path.display());
        let lock = OpenOptions::new().create(true).append(true).open(&path).with_context(error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                self.bar.suspend(|| eprintln!("{}: another process downloads it; waiting", file.path));
                lock.lock().with_context(error)?;
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(error),
        }
        Ok(lock)
    }

    /// Downloads a file. A resumed file with a wrong hash is downloaded once more, from its beginning.
    fn download(&self, file: &RemoteFile, blob: &Path) -> anyhow::Result<()> {
        let path = self.folder.incomplete(file.hash.digits());
        let mut part = Part::open(self, file, path)?;
        loop {
            let resumed = part.length > 0;
            part.fill()?;
            let found = std::mem::replace(&mut part.hasher, file.hash.begin(file.size)).finish();
            if found == file.hash.digits() {
                part.file.sync_all().with_context(|| part.error())?;
                return std::fs::rename(&part.path, blob).with_context(|| part.error());
            }
            part.restart()?;
            if !resumed {
                // The next pull begins from nothing.
                let _ = std::fs::remove_file(&part.path);
                let (kind, expected) = (file.hash.kind(), file.hash.digits());
                bail!("{}: {}: {kind} is {found}, the hub lists {expected}", self.repo, file.path);
            }
        }
    }
}

/// The part of a file that is on disk, with its hash.
struct Part<'p> {
    source: &'p Source<'p>,
    remote: &'p RemoteFile,
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
}

impl<'p> Part<'p> {
    /// Opens the part of an earlier download, or begins a new one.
    fn open(source: &'p Source, remote: &'p RemoteFile, path: PathBuf) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("{}: cannot be written", path.display()))?;
        let hasher = remote.hash.begin(remote.size);
        let mut part = Self { source, remote, path, file, length: 0, hasher };
        if part.file.metadata().is_ok_and(|found| found.len() > remote.size) {
            part.restart()?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            match part.file.read(&mut chunk).with_context(|| part.error())? {
                0 => return Ok(part),
                n => part.count(&chunk[..n]),
            }
        }
    }

    fn error(&self) -> String {
        format!("{}: cannot be written", self.path.display())
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.source.bar.inc(bytes.len() as u64);
    }

    /// Drops all bytes.
    fn restart(&mut self) -> anyhow::Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .with_context(|| self.error())?;
        self.source.bar.set_position(self.source.bar.position().saturating_sub(self.length));
        self.length = 0;
        self.hasher = self.remote.hash.begin(self.remote.size);
        Ok(())
    }

    /// Requests the missing bytes until the file has its size. Attempts count from the last progress.
    fn fill(&mut self) -> anyhow::Result<()> {
        let mut failed = 0;
        while self.length < self.remote.size {
            let before = self.length;
            let Source { client, repo, commit, .. } = *self.source;
            let result = match client.file(repo, commit, &self.remote.path, self.length) {
                Ok(body) => self.append(body),
                Err(failure) => Err(failure),
            };
            if self.length > before {
                failed = 0;
            }
            if let Err(failure) = result {
                failed += 1;
                failure.wait(failed)?;
            }
        }
        Ok(())
    }

    /// Appends a body. A server that does not resume sends the whole file.
    fn append(&mut self, mut body: Body) -> Result<(), Failure> {
        let RemoteFile { path, size, .. } = self.remote;
        let repo = self.source.repo;
        if body.start == 0 && self.length > 0 {
            self.restart().map_err(Failure::Final)?;
        }
        let wrong = |found: u64| {
            Failure::Final(anyhow!("{repo}: {path}: the server sends {found} bytes, the hub lists {size}"))
        };
        if body.start != self.length {
            let text = format!("{repo}: {path}: the server sends another part than it was asked for");
            return Err(Failure::Final(anyhow!(text)));
        }
        if let Some(length) = body.length
            && self.length.checked_add(length) != Some(*size)
        {
            return Err(wrong(self.length.saturating_add(length)));
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = match body.content.read(&mut chunk) {
                Ok(0) if self.length < *size => {
                    let text = format!("{repo}: {path}: cut off after {} of {size} bytes", self.length);
                    return Err(Failure::Transient(anyhow!(text), None));
                }
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    let text = format!("{repo}: {path}: cut off after {} of {size} bytes: {e}", self.length);
                    return Err(Failure::Transient(anyhow!(text), None));
                }
            };
            if self.length + n as u64 > *size {
                return Err(wrong(self.length + n as u64));
            }
            // A full disk keeps what fits: the next pull continues from there.
            let written = self.file.write_all(&chunk[..n]);
            written.with_context(|| self.error()).map_err(Failure::Final)?;
            self.count(&chunk[..n]);
        }
    }
}

/// Links a file of a snapshot to its blob, as huggingface_hub does.
fn link(folder: &RepoFolder, commit: &str, path: &str, digits: &str) -> anyhow::Result<()> {
    let link = folder.snapshot(commit).join(path);
    let parent = link.parent().context("a link lies in a folder")?;
    create_folder(parent)?;
    let up = "../".repeat(path.split('/').count() + 1);
    let target = PathBuf::from(format!("{up}blobs/{digits}"));
    replace_link(&target, &link)
}
