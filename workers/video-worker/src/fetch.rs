//! Access to inputs: locating, downloading, listing.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use jobs::Failure;
use jobs::store::{ObjectInfo, Store, StoreError, StoreSettings};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::budget::{Budget, NoRoom, Reservation};
use crate::location::Location;
use crate::message::Priority;

/// How often an object may change between HEAD and GET before the download is given up.
const MAX_REPLACEMENTS: usize = 5;

/// Inputs of jobs: allowed places, stores, and the disk for downloads.
pub struct Inputs {
    /// Allowed places; any if empty.
    allow: Vec<Location>,
    settings: StoreSettings,
    disk: Disk,
    /// One store per bucket, so that connections are reused.
    buckets: Mutex<HashMap<String, Store>>,
}

/// Disk space for downloaded videos.
pub struct Disk {
    pub folder: PathBuf,
    /// Budget of all downloads together.
    pub room: Budget,
    /// How long a download waits for room.
    pub timeout: Duration,
}

/// Identity of the analysed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputInfo {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A video on the local disk.
#[derive(Debug)]
pub enum Fetched {
    Local(PathBuf),
    /// A file without a name: the kernel removes it when the process ends, however it ends.
    Downloaded(File, Reservation),
}

impl Fetched {
    /// Returns a path that this process can open.
    pub fn path(&self) -> PathBuf {
        match self {
            Fetched::Local(path) => path.clone(),
            Fetched::Downloaded(file, _) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        }
    }
}

/// An object below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Path relative to the prefix.
    pub name: String,
    pub location: Location,
    pub etag: Option<String>,
}

/// Error of accessing an input.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Location(#[from] Failure),
    #[error("{0}: not within the allowed inputs (inputs.allow)")]
    NotAllowed(Location),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Error of the local disk.
    #[error("{folder}: cannot store a downloaded video: {source}", folder = folder.display())]
    Temporary { folder: PathBuf, source: std::io::Error },
    #[error("{url}: no disk space for the download (worker.temporary_bytes): {why}")]
    NoRoom { url: String, why: NoRoom },
}

impl FetchError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            FetchError::Location(why) => &why.code,
            FetchError::NotAllowed(_) => "input_not_allowed",
            FetchError::Store(error) => error.code(),
            FetchError::Temporary { .. } => "temporary_storage",
            FetchError::NoRoom { why: NoRoom::NeverFits { .. }, .. } => "limit_temporary",
            FetchError::NoRoom { why: NoRoom::TimedOut { .. }, .. } => "no_room",
        }
    }
}

impl Inputs {
    pub fn new(allow: Vec<Location>, settings: StoreSettings, disk: Disk) -> Self {
        Self { allow, settings, disk, buckets: Mutex::default() }
    }

    /// Parses a location and checks that it is allowed.
    ///
    /// # Errors
    /// The text is not a location, or the location is not allowed.
    pub fn locate(&self, text: &str) -> Result<Location, FetchError> {
        let location = Location::parse(text)?;
        if self.allow.is_empty() || location.is_within(&self.allow) {
            return Ok(location);
        }
        Err(FetchError::NotAllowed(location))
    }

    /// Downloads a video in the listed version, as soon as there is disk space. A local file is used in place.
    ///
    /// # Errors
    /// The video does not exist, is too large, has changed, or cannot be stored.
    pub async fn fetch(
        &self,
        location: &Location,
        etag: Option<&str>,
        limit: u64,
        priority: Priority,
    ) -> Result<(Fetched, InputInfo), FetchError> {
        let url = location.to_string();
        match location {
            Location::Local(path) => {
                self.check_links(path)?;
                match tokio::fs::metadata(path).await {
                    Ok(file) if file.is_file() => {
                        let info = InputInfo { url, bytes: Some(file.len()), etag: None };
                        Ok((Fetched::Local(path.clone()), info))
                    }
                    _ => Err(not_found(location).into()),
                }
            }
            Location::S3 { bucket, key } => {
                let bucket = self.bucket(bucket)?;
                for _ in 0..MAX_REPLACEMENTS {
                    match self.copy(&bucket, key, etag, limit, priority).await {
                        // Without a listed version, any version will do.
                        Err(FetchError::Store(StoreError::Changed { .. })) if etag.is_none() => {}
                        other => return other,
                    }
                }
                Err(StoreError::Unavailable { url, why: "the object keeps changing".into() }.into())
            }
        }
    }

    async fn copy(
        &self,
        bucket: &Store,
        key: &str,
        etag: Option<&str>,
        limit: u64,
        priority: Priority,
    ) -> Result<(Fetched, InputInfo), FetchError> {
        let url = bucket.url(key);
        // The reservation needs the size first; the ETag then pins the version of that size.
        let there = bucket.head(key).await?.ok_or_else(|| StoreError::NotFound { url: url.clone() })?;
        if there.size > limit {
            return Err(StoreError::TooLarge { url, limit }.into());
        }
        let room = self.disk.room.reserve(there.size, priority, self.disk.timeout).await;
        let room = room.map_err(|why| FetchError::NoRoom { url: url.clone(), why })?;
        let etag = etag.or(there.etag.as_deref());
        let file = temporary_file(&self.disk.folder).map_err(|source| self.disk_error(source))?;
        let mut file = tokio::fs::File::from_std(file);
        let ObjectInfo { size, etag, .. } = match bucket.fetch(key, etag, &mut file, there.size).await {
            Ok(info) => info,
            // Failure to write the local file is an error of this worker, not of the bucket.
            Err(StoreError::Io { why, .. }) => return Err(self.disk_error(why)),
            Err(other) => return Err(other.into()),
        };
        let file = file.into_std().await;
        Ok((Fetched::Downloaded(file, room), InputInfo { url, bytes: Some(size), etag }))
    }

    fn disk_error(&self, source: std::io::Error) -> FetchError {
        FetchError::Temporary { folder: self.disk.folder.clone(), source }
    }

    /// Rejects paths whose symbolic links lead out of the allowed folders.
    fn check_links(&self, path: &Path) -> Result<(), FetchError> {
        if self.allow.is_empty() {
            return Ok(());
        }
        let real = std::fs::canonicalize(path).map_err(|_| not_found(&Location::Local(path.into())))?;
        let real_places = self.allow.iter().filter_map(|place| match place {
            Location::Local(folder) => Some(Location::Local(std::fs::canonicalize(folder).ok()?)),
            Location::S3 { .. } => None,
        });
        if Location::Local(real).is_within(&real_places.collect::<Vec<_>>()) {
            return Ok(());
        }
        Err(FetchError::NotAllowed(Location::Local(path.into())))
    }

    /// Reads a small object into memory: a manifest.
    ///
    /// # Errors
    /// It does not exist, or is larger than `limit`.
    pub async fn read(&self, location: &Location, limit: u64) -> Result<Bytes, FetchError> {
        let (store, key) = self.open(location)?;
        let found = store.get(&key, limit).await?;
        Ok(found.ok_or_else(|| not_found(location))?)
    }

    /// Lists at most `limit` objects below a prefix, after the key `after`, ordered by key. Also returns the last listed key if
    /// there may be more.
    ///
    /// # Errors
    /// The prefix cannot be listed.
    pub async fn page(
        &self,
        prefix: &Location,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<ListedObject>, Option<String>), FetchError> {
        let (store, folder) = match prefix {
            Location::Local(path) => (self.folder(path)?, String::new()),
            Location::S3 { bucket, key } => (self.bucket(bucket)?, key.trim_end_matches('/').to_owned()),
        };
        let objects = store.page(&folder, after, limit).await?;
        let next = (objects.len() == limit).then(|| objects[limit - 1].key.clone());
        let found = objects.into_iter().map(|object| ListedObject {
            name: object.key.strip_prefix(&folder).unwrap_or(&object.key).trim_start_matches('/').to_owned(),
            location: match prefix {
                Location::Local(path) => Location::Local(path.join(&object.key)),
                Location::S3 { bucket, .. } => Location::S3 { bucket: bucket.clone(), key: object.key },
            },
            etag: match prefix {
                Location::Local(_) => None,
                Location::S3 { .. } => object.etag,
            },
        });
        Ok((found.collect(), next))
    }

    fn open(&self, location: &Location) -> Result<(Store, String), FetchError> {
        match location {
            Location::S3 { bucket, key } => Ok((self.bucket(bucket)?, key.clone())),
            Location::Local(path) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Ok((self.folder(folder)?, name))
            }
        }
    }

    fn folder(&self, path: &Path) -> Result<Store, FetchError> {
        self.check_links(path)?;
        if !path.is_dir() {
            return Err(not_found(&Location::Local(path.into())).into());
        }
        Ok(Store::open(&format!("file://{}", path.display()), &self.settings)?)
    }

    fn bucket(&self, bucket: &str) -> Result<Store, FetchError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(store) = buckets.get(bucket) {
            return Ok(store.clone());
        }
        let store = Store::open(&format!("s3://{bucket}"), &self.settings)?;
        buckets.insert(bucket.to_owned(), store.clone());
        Ok(store)
    }
}

/// File name prefix of downloads, for file systems that require a name.
const PREFIX: &str = "flamingo-video-";

/// Files older than this belong to dead workers.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// Creates a file without a name.
fn temporary_file(folder: &Path) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems (NFS) do not support O_TMPFILE, and old kernels take the flag for an attempt to open the folder.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => unlinked_file(folder),
        Err(error) => Err(error.into()),
    }
}

/// Creates a file and unlinks it at once; a process that dies in between leaves an empty file.
fn unlinked_file(folder: &Path) -> std::io::Result<File> {
    let named = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    Ok(named.into_file())
}

/// Removes files that dead workers left in the download folder; returns their number.
///
/// # Errors
/// The folder cannot be read.
pub fn remove_abandoned_files(folder: &Path) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Skip files we cannot stat or delete.
        let age = entry.metadata().ok().and_then(|of| of.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age >= ABANDONED_AFTER) && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

fn not_found(location: &Location) -> StoreError {
    StoreError::NotFound { url: location.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn download_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        for make in [temporary_file, unlinked_file] {
            let mut file = make(folder.path()).unwrap();
            std::io::Write::write_all(&mut file, b"bytes").unwrap();
            assert_eq!(names(), 0, "a killed process leaves no file");
        }
        let error = temporary_file(&folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    /// A worker can die while its file has a name.
    #[test]
    fn removes_files_of_dead_workers() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        made("flamingo-video-Ab12Cd", ABANDONED_AFTER * 2);
        made("flamingo-video-Ef34Gh", Duration::ZERO);
        made("unrelated-file", ABANDONED_AFTER * 2);
        assert_eq!(remove_abandoned_files(folder.path()).unwrap(), 1);
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["flamingo-video-Ef34Gh", "unrelated-file"]);
        assert!(remove_abandoned_files(&folder.path().join("missing")).is_err());
    }
}
