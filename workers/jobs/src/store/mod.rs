//! Objects: what came in and what came out, on S3, in a folder, or in memory.
//!
//! Results are written whole or not at all. [`Store::put_new`] is how two workers that did the same item find out who
//! was first. A store is a place with a **root**: keys are relative to it and never lead out of it.

use std::ffi::OsString;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use tokio::io::AsyncWriteExt;

mod error;
mod backend;
mod upload;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod faults;

pub use error::StoreError;
pub use upload::Upload;

use crate::job::SecretUrl;

/// How long to wait for S3. Folders and memory do not wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    pub connect_timeout: Duration,
    /// The longest silence within an answer. One put of at most 8 MiB has to be sent within it, too.
    pub read_timeout: Duration,
    /// How long one call goes on trying. A call that has begun its last try ends with that try.
    pub retry_for: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(60),
        }
    }
}

/// What a listing says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Relative to the store's root.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Changes whenever the object does.
    pub etag: Option<String>,
    /// On stores that keep old versions.
    pub version: Option<String>,
}

/// What has become of an object that was to be new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Created,
    /// It is there with the same bytes: an earlier try of ours had landed, or somebody came to the same result.
    Same,
    /// Somebody was faster, with these bytes. They stay.
    Other(Bytes),
}

/// What `put_new` reads back at most.
const READ_BACK: u64 = 64 << 20;
/// How often `put_new` tries again after a conflict that left nothing behind.
const CONFLICTS: u32 = 5;

/// A place for objects. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    /// Within the backend.
    root: Path,
    /// The root's URL without a slash at its end.
    shown: String,
    /// The root of a `file://` store, with links resolved.
    folder: Option<PathBuf>,
}

impl Store {
    /// `s3://bucket/prefix` (settings and credentials from `AWS_*` in the environment), `file:///absolute/folder`,
    /// `file://./relative/folder` (made when something is written) or `memory://` (a new one, empty). Connects to
    /// nothing.
    ///
    /// # Errors
    /// The URL names no store, or the `AWS_*` settings contradict each other.
    pub fn open(url: &str, settings: &StoreSettings) -> Result<Self, StoreError> {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self::open_with(url, settings, std::env::vars_os().filter_map(text))
    }

    fn open_with(
        url: &str,
        settings: &StoreSettings,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let shown = SecretUrl::new(url).to_string();
        let bad = |why: &str| StoreError::BadUrl { url: shown.clone(), why: why.to_owned() };
        let shown_root = shown.strip_suffix('/').unwrap_or(&shown).to_owned();
        match url.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || bucket.contains(['@', ':', '?', '#']) {
                    return Err(bad("expected s3://bucket/prefix, and credentials in AWS_* variables"));
                }
                let root = Path::parse(prefix).map_err(|why| bad(&why.to_string()))?;
                let backend =
                    backend::s3(bucket, settings, environment).map_err(|why| bad(&why.to_string()))?;
                Ok(Self { backend: Arc::new(backend), root, shown: shown_root, folder: None })
            }
            Some(("file", folder)) if !folder.is_empty() => {
                let folder = backend::resolved(FilePath::new(folder)).map_err(|why| bad(&why.to_string()))?;
                let root = Path::from_absolute_path(&folder).map_err(|why| bad(&why.to_string()))?;
                // A result that the ledger calls done has to outlive the machine's power.
                let backend = LocalFileSystem::new().with_fsync(true);
                Ok(Self { backend: Arc::new(backend), root, shown: shown_root, folder: Some(folder) })
            }
            Some(("memory", "")) => {
                let backend = Arc::new(InMemory::new());
                Ok(Self { backend, root: Path::default(), shown: shown_root, folder: None })
            }
            _ => Err(bad("expected s3://bucket/prefix, file:///folder, file://./folder or memory://")),
        }
    }

    /// How an object is called in texts and reports.
    pub fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.shown)
    }

    /// Writes an object that is not there yet.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses. The object may have been written: putting it again tells.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let path = self.path(key)?;
        for conflict in 1..=CONFLICTS {
            match self.backend.put_opts(&path, bytes.clone().into(), PutMode::Create.into()).await {
                Ok(_) => return Ok(Put::Created),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(other) => return Err(self.error(key, other)),
            }
            match self.get(key, READ_BACK).await? {
                Some(there) if there == bytes => return Ok(Put::Same),
                Some(there) => return Ok(Put::Other(there)),
                // S3 answers "conflict" when somebody is writing just now, and may end up with neither.
                None => tokio::time::sleep(Duration::from_millis(50) * conflict).await,
            }
        }
        Err(StoreError::Unavailable { url: self.url(key), why: "writers get in each other's way".to_owned() })
    }

    /// Writes an object, in place of the one that may be there.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.backend.put(&path, bytes.into()).await.map(drop).map_err(|why| self.error(key, why))
    }

    /// Reads an object whole; `None`: it is not there.
    ///
    /// # Errors
    /// It has more than `limit` bytes; the store cannot be reached, or refuses.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let object = match self.opened(key, GetOptions::default(), limit).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(other),
        };
        let announced = object.meta.size;
        let bytes = object.bytes().await.map_err(|why| self.error(key, why))?;
        self.whole(key, announced, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    /// What is known about an object without reading it; `None`: it is not there.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.path(key)?;
        self.stays_inside(key).await?;
        match self.backend.head(&path).await.map_err(|why| self.error(key, why)) {
            Ok(meta) => Ok(self.info(meta)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Objects in the folder `prefix` (empty: everywhere) and below it: the first `limit`, or those after `after`, the
    /// last key of the page before. The order is bytewise by key; a store that speaks S3 but has an order of its own
    /// (SeaweedFS goes folder by folder) keeps to that. A folder that is not there is empty.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = if prefix.is_empty() { self.root.clone() } else { self.path(prefix)? };
        let found = match after {
            Some(after) => self.backend.list_with_offset(Some(&folder), &self.path(after)?),
            None => self.backend.list(Some(&folder)),
        };
        // S3 also lists markers of folders; that of `prefix` itself is not in it.
        let within = |info: &ObjectInfo| {
            prefix.is_empty() || info.key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        let found = found
            .map_err(|why| self.error(prefix, why))
            .try_filter_map(|meta| std::future::ready(Ok(self.info(meta))));
        let found = found.try_filter(|info| std::future::ready(within(info)));
        if self.folder.is_none() {
            return found.take(limit).try_collect().await;
        }
        // A folder is walked in no order, so every page takes the whole walk.
        let mut all: Vec<_> = found.try_collect().await?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let mut page = Vec::new();
        for info in all {
            if page.len() == limit {
                break;
            }
            if self.stays_inside(&info.key).await.is_ok() {
                page.push(info);
            }
        }
        Ok(page)
    }

    /// Reads an object into a file, piece by piece. With an `etag`, only the object that had it. A connection that
    /// breaks is taken up again where it broke, as long as the object is the same.
    ///
    /// # Errors
    /// It is not there, is another one, or has more than `limit` bytes; the store cannot be reached, refuses, or sends
    /// less than it announced; the file cannot be written. The file may hold a part of the object then.
    pub async fn fetch(
        &self,
        key: &str,
        etag: Option<&str>,
        file: &mut tokio::fs::File,
        limit: u64,
    ) -> Result<ObjectInfo, StoreError> {
        let only = GetOptions { if_match: etag.map(str::to_owned), ..GetOptions::default() };
        let object = self.opened(key, only, limit).await?;
        let meta = object.meta.clone();
        let mut pieces = object.into_stream();
        let mut written = 0;
        let unwritten = |why| StoreError::Io { url: self.url(key), why };
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|why| self.error(key, why))?;
            written += piece.len() as u64;
            if written > limit {
                return Err(StoreError::TooLarge { url: self.url(key), limit });
            }
            file.write_all(&piece).await.map_err(unwritten)?;
        }
        file.flush().await.map_err(unwritten)?;
        self.whole(key, meta.size, written)?;
        self.info(meta).ok_or_else(|| StoreError::NotFound { url: self.url(key) })
    }

    /// Begins an object of any size, in place of the one that may be there. It is seen when it is
    /// [finished](Upload::finish), and never when that does not happen; S3 keeps the parts of such an upload until a
    /// lifecycle rule of the bucket removes them.
    ///
    /// # Errors
    /// `key` is no key.
    pub fn upload(&self, key: &str) -> Result<Upload, StoreError> {
        Ok(Upload::new(self, key, self.path(key)?))
    }

    /// Does it keep the promise that [`put_new`](Self::put_new) needs? Writes, reads and deletes a small object.
    ///
    /// # Errors
    /// It does not, cannot be reached, or refuses; the text says what to do.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let key = format!(".flamingo-probe-{}", uuid::Uuid::now_v7());
        let path = self.path(&key)?;
        let outcome = match self.probe_with(&key, &path).await {
            // Nothing need be there to write an object, except the bucket.
            Err(StoreError::NotFound { .. }) => return Err(StoreError::NotFound { url: self.shown.clone() }),
            other => other,
        };
        let deleted = self.backend.delete(&path).await.map_err(|why| self.error(&key, why));
        outcome.and(deleted)
    }

    async fn probe_with(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let unsupported =
            |why: &str| StoreError::Unsupported { url: self.shown.clone(), why: why.to_owned() };
        let put = |text: &'static str| self.backend.put_opts(path, text.into(), PutMode::Create.into());
        put("first").await.map_err(|why| self.error(key, why))?;
        match put("second").await {
            Err(object_store::Error::AlreadyExists { .. }) => (),
            Ok(_) => {
                return Err(unsupported(
                    "it overwrites objects that were to be new: it ignores `If-None-Match: *`",
                ));
            }
            Err(other) => return Err(self.error(key, other)),
        }
        match self.get(key, 16).await? {
            Some(bytes) if bytes == "first" => (),
            _ => return Err(unsupported("it does not give back what was written last")),
        }
        // S3 hides what is not there from those who may not list: every look for an earlier report would be refused.
        match self.get(&format!("{key}-absent"), 16).await {
            Err(StoreError::Forbidden { .. }) => Err(unsupported(
                "it refuses to say that an object is not there: allow listing (s3:ListBucket)",
            )),
            other => other.map(drop),
        }
    }

    /// Opens an object for reading.
    async fn opened(&self, key: &str, options: GetOptions, limit: u64) -> Result<GetResult, StoreError> {
        let path = self.path(key)?;
        self.stays_inside(key).await?;
        let object = self.backend.get_opts(&path, options).await.map_err(|why| self.error(key, why))?;
        if object.meta.size > limit {
            return Err(StoreError::TooLarge { url: self.url(key), limit });
        }
        Ok(object)
    }

    /// Where a key stands in the backend.
    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let bad = |why: String| StoreError::BadUrl { url: self.url(key), why };
        // Not `Path::from`, which makes some other key out of one that is none.
        let relative = Path::parse(key).map_err(|why| bad(why.to_string()))?;
        if relative.as_ref() != key || key.is_empty() {
            return Err(bad("a key neither begins nor ends with `/`".to_owned()));
        }
        Path::parse(format!("{}/{key}", self.root)).map_err(|why| bad(why.to_string()))
    }

    /// In a folder, a link may lead anywhere, and whoever may put files there need not be allowed to read everything.
    async fn stays_inside(&self, key: &str) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match tokio::fs::canonicalize(folder.join(key)).await {
            Ok(real) if !real.starts_with(folder) => {
                Err(StoreError::Forbidden { url: self.url(key), why: "it is a link out of the folder" })
            }
            // What is wrong otherwise shows when it is opened.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// `None`: not below the root.
    fn info(&self, meta: ObjectMeta) -> Option<ObjectInfo> {
        let key = meta.location.as_ref().strip_prefix(self.root.as_ref())?.trim_start_matches('/').to_owned();
        Some(ObjectInfo { key, size: meta.size, etag: meta.e_tag, version: meta.version })
    }

    fn whole(&self, key: &str, announced: u64, got: u64) -> Result<(), StoreError> {
        if announced == got {
            return Ok(());
        }
        let why = format!("{got} of {announced} bytes came");
        Err(StoreError::Unavailable { url: self.url(key), why })
    }

    fn error(&self, key: &str, error: object_store::Error) -> StoreError {
        StoreError::new(self.url(key), error)
    }
}
