//! Object store for inputs and results: S3, a folder, or memory.
//!
//! Results are written whole or not at all. Two workers that ran the same item use [`Store::put_new`] to find out which was
//! first. A store has a **root**: keys are relative to it and never lead out of it.

use std::ffi::OsString;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::aws::AmazonS3;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use tokio::io::AsyncWriteExt;

mod error;
mod raw_keys;
mod backend;
mod upload;
mod keys;
mod page;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod faults;

pub use error::StoreError;
pub use upload::Upload;

use crate::secret_url::SecretUrl;

/// Time limits for S3. Folders and memory have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    pub connect_timeout: Duration,
    /// Maximum time without data within a response. One put of at most 8 MiB must be sent within it, too.
    pub read_timeout: Duration,
    /// Maximum time in which one call starts retries. The last retry may take longer.
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

/// Metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key relative to the store's root.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Version tag that changes with the object.
    pub etag: Option<String>,
}

/// Result of [`Store::put_new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Created,
    /// The object exists with the same bytes: from an earlier call of ours, or from a worker with the same result.
    Same,
    /// The object exists with these other bytes, which stay.
    Other(Bytes),
}

/// Maximum bytes that `put_new` reads back.
const MAX_READ_BACK: u64 = 64 << 20;
/// Maximum retries of `put_new` after a conflict that left no object.
const MAX_CONFLICTS: u32 = 5;

/// Object store. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    /// The backend of an S3 store, for its listings.
    s3: Option<Arc<AmazonS3>>,
    /// Path of the root within the backend.
    root: Path,
    /// URL of the root without a trailing slash.
    shown: String,
    /// Root folder of a `file://` store, with links resolved.
    folder: Option<PathBuf>,
}

impl Store {
    /// Opens `s3://bucket/prefix` (settings and credentials from `AWS_*` in the environment), `file:///absolute/folder`,
    /// `file://./relative/folder` (created by the first write) or `memory://` (new and empty). Does not connect.
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
        let bad = |reason: &str| StoreError::BadUrl { url: shown.clone(), reason: reason.to_owned() };
        let shown_root = shown.strip_suffix('/').unwrap_or(&shown).to_owned();
        match url.split_once("://") {
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || bucket.contains(['@', ':', '?', '#']) {
                    return Err(bad("expected s3://bucket/prefix, and credentials in AWS_* variables"));
                }
                let root = Path::parse(prefix).map_err(|reason| bad(&reason.to_string()))?;
                let backend =
                    backend::s3(bucket, settings, environment).map_err(|reason| bad(&reason.to_string()))?;
                let s3 = Arc::new(backend);
                Ok(Self { backend: s3.clone(), s3: Some(s3), root, shown: shown_root, folder: None })
            }
            Some(("file", folder)) if !folder.is_empty() => {
                let folder =
                    backend::resolve(FilePath::new(folder)).map_err(|reason| bad(&reason.to_string()))?;
                let root = Path::from_absolute_path(&folder).map_err(|reason| bad(&reason.to_string()))?;
                // A result that the ledger has recorded must survive a power failure.
                let backend = LocalFileSystem::new().with_fsync(true);
                Ok(Self {
                    backend: Arc::new(backend),
                    s3: None,
                    root,
                    shown: shown_root,
                    folder: Some(folder),
                })
            }
            Some(("memory", "")) => {
                let backend = Arc::new(InMemory::new());
                Ok(Self { backend, s3: None, root: Path::default(), shown: shown_root, folder: None })
            }
            _ => Err(bad("expected s3://bucket/prefix, file:///folder, file://./folder or memory://")),
        }
    }

    /// Returns the URL of an object for texts and reports.
    pub fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.shown)
    }

    /// Writes an object if it does not exist.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses. The object may have been written; another call tells.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put, StoreError> {
        let path = self.path(key)?;
        for conflict in 1..=MAX_CONFLICTS {
            match self.backend.put_opts(&path, bytes.clone().into(), PutMode::Create.into()).await {
                Ok(_) => return Ok(Put::Created),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(other) => return Err(self.error(key, other)),
            }
            match self.get(key, MAX_READ_BACK).await? {
                Some(there) if there == bytes => return Ok(Put::Same),
                Some(there) => return Ok(Put::Other(there)),
                // S3 answers "conflict" during another write, and may keep neither object.
                None => tokio::time::sleep(Duration::from_millis(50) * conflict).await,
            }
        }
        Err(StoreError::Unavailable { url: self.url(key), reason: "concurrent writers conflict".to_owned() })
    }

    /// Writes an object, and replaces an existing one.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.backend.put(&path, bytes.into()).await.map(drop).map_err(|reason| self.error(key, reason))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// The object does not exist (S3 accepts that); the store cannot be reached, or refuses.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        self.backend.delete(&path).await.map_err(|reason| self.error(key, reason))
    }

    /// Reads an object whole. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// The object has more than `limit` bytes; the store cannot be reached, or refuses.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let object = match self.open_object(key, GetOptions::default(), limit).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(other),
        };
        let announced = object.meta.size;
        let bytes = object.bytes().await.map_err(|reason| self.error(key, reason))?;
        self.check_length(key, announced, bytes.len() as u64)?;
        Ok(Some(bytes))
    }

    /// Returns the metadata of an object; `None` if it does not exist.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let path = self.path(key)?;
        self.check_inside_root(key).await?;
        match self.backend.head(&path).await.map_err(|reason| self.error(key, reason)) {
            Ok(meta) => Ok(self.info(meta)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Downloads an object into a file, chunk by chunk. With an `etag`, only that version of the object. A broken download
    /// resumes where it stopped, if the object is unchanged.
    ///
    /// # Errors
    /// The object does not exist, has another etag, or has more than `limit` bytes; the store cannot be reached, refuses, or
    /// sends less than it announced; the file cannot be written. The file may then hold a part of the object.
    pub async fn fetch(
        &self,
        key: &str,
        etag: Option<&str>,
        file: &mut tokio::fs::File,
        limit: u64,
    ) -> Result<ObjectInfo, StoreError> {
        let only = GetOptions { if_match: etag.map(str::to_owned), ..GetOptions::default() };
        let object = self.open_object(key, only, limit).await?;
        let meta = object.meta.clone();
        let mut chunks = object.into_stream();
        let mut written = 0;
        let io_error = |reason| StoreError::Io { url: self.url(key), reason };
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|reason| self.error(key, reason))?;
            written += chunk.len() as u64;
            if written > limit {
                return Err(StoreError::TooLarge { url: self.url(key), limit });
            }
            file.write_all(&chunk).await.map_err(io_error)?;
        }
        file.flush().await.map_err(io_error)?;
        self.check_length(key, meta.size, written)?;
        self.info(meta).ok_or_else(|| StoreError::NotFound { url: self.url(key) })
    }

    /// Begins an upload of any size, which replaces an existing object. The object becomes visible when the upload is
    /// [finished](Upload::finish). S3 keeps the parts of an unfinished upload until a lifecycle rule of the bucket deletes
    /// them.
    ///
    /// # Errors
    /// `key` is not a valid key.
    pub fn upload(&self, key: &str) -> Result<Upload, StoreError> {
        Ok(Upload::new(self, key, self.path(key)?))
    }

    /// Checks that the store supports [`put_new`](Self::put_new). Writes, reads and deletes a small object.
    ///
    /// # Errors
    /// The store does not support it, cannot be reached, or refuses; the text says what to do.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let key = format!(".flamingo-probe-{}", uuid::Uuid::now_v7());
        let path = self.path(&key)?;
        let outcome = match self.probe_with(&key, &path).await {
            // A write needs only the bucket, so that is what is missing.
            Err(StoreError::NotFound { .. }) => return Err(StoreError::NotFound { url: self.shown.clone() }),
            other => other,
        };
        let deleted = self.delete(&key).await;
        outcome.and(deleted)
    }

    async fn probe_with(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let unsupported =
            |reason: &str| StoreError::Unsupported { url: self.shown.clone(), reason: reason.to_owned() };
        let put = |text: &'static str| self.backend.put_opts(path, text.into(), PutMode::Create.into());
        put("first").await.map_err(|reason| self.error(key, reason))?;
        match put("second").await {
            Err(object_store::Error::AlreadyExists { .. }) => (),
            Ok(_) => {
                return Err(unsupported("it overwrites existing objects: it ignores `If-None-Match: *`"));
            }
            Err(other) => return Err(self.error(key, other)),
        }
        match self.get(key, 16).await? {
            Some(bytes) if bytes == "first" => (),
            _ => return Err(unsupported("it does not return the last written bytes")),
        }
        // Without the permission to list, S3 answers 403 for missing objects: each check for an earlier report would fail.
        match self.get(&format!("{key}-absent"), 16).await {
            Err(StoreError::Forbidden { .. }) => {
                Err(unsupported("it answers 403 for a missing object: allow listing (s3:ListBucket)"))
            }
            other => other.map(drop),
        }
    }

    /// Opens an object for reading.
    async fn open_object(&self, key: &str, options: GetOptions, limit: u64) -> Result<GetResult, StoreError> {
        let path = self.path(key)?;
        self.check_inside_root(key).await?;
        let object = self.backend.get_opts(&path, options).await.map_err(|reason| self.error(key, reason))?;
        if object.meta.size > limit {
            return Err(StoreError::TooLarge { url: self.url(key), limit });
        }
        Ok(object)
    }

    /// Returns the path of a key in the backend.
    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let bad = |reason: String| StoreError::BadUrl { url: self.url(key), reason };
        // Not `Path::from`, which converts an invalid key to another key.
        let relative = Path::parse(key).map_err(|reason| bad(reason.to_string()))?;
        if relative.as_ref() != key || key.is_empty() {
            return Err(bad("a key must not begin or end with `/`".to_owned()));
        }
        self.check_key_length(key)?;
        Path::parse(format!("{}/{key}", self.root)).map_err(|reason| bad(reason.to_string()))
    }

    /// Refuses links out of the root folder: a user who may write files there must not read other files through them.
    async fn check_inside_root(&self, key: &str) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match tokio::fs::canonicalize(folder.join(key)).await {
            Ok(real) if !real.starts_with(folder) => Err(StoreError::Forbidden {
                url: self.url(key),
                reason: "it is a link out of the root folder",
            }),
            // Other errors show when the file is opened.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Converts metadata; returns `None` for an object outside the root.
    fn info(&self, meta: ObjectMeta) -> Option<ObjectInfo> {
        let key = meta.location.as_ref().strip_prefix(self.root.as_ref())?.trim_start_matches('/').to_owned();
        Some(ObjectInfo { key, size: meta.size, etag: meta.e_tag })
    }

    fn check_length(&self, key: &str, announced: u64, got: u64) -> Result<(), StoreError> {
        if announced == got {
            return Ok(());
        }
        let reason = format!("received {got} of {announced} bytes");
        Err(StoreError::Unavailable { url: self.url(key), reason })
    }

    fn error(&self, key: &str, error: object_store::Error) -> StoreError {
        StoreError::new(self.url(key), error)
    }
}
