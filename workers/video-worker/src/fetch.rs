//! Inputs, from where they are to a file that the decoder can be handed.

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

use crate::budget::{Budget, NoRoom, Reserved};
use crate::location::Location;
use crate::message::Priority;

/// How often a video may be replaced between the question for its size and the one for its bytes.
const REPLACED: usize = 5;

/// Where inputs may be read from, and how.
pub struct Inputs {
    /// Everywhere if it is empty.
    allow: Vec<Location>,
    settings: StoreSettings,
    disk: Disk,
    /// Opened once per bucket: connections are kept.
    buckets: Mutex<HashMap<String, Store>>,
}

/// Where fetched videos lie.
pub struct Disk {
    pub folder: PathBuf,
    /// What all of them together may take there.
    pub room: Budget,
    /// How long a video waits for room.
    pub patience: Duration,
}

/// Which bytes an answer is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputInfo {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A video on this machine's disk.
#[derive(Debug)]
pub enum Fetched {
    Here(PathBuf),
    /// It has no name, so that nothing is left of it however this process ends.
    Copied(File, Reserved),
}

impl Fetched {
    /// Where this process can open it.
    pub fn path(&self) -> PathBuf {
        match self {
            Fetched::Here(path) => path.clone(),
            Fetched::Copied(file, _) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        }
    }
}

/// An input below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path from the prefix on.
    pub name: String,
    pub location: Location,
    pub etag: Option<String>,
}

/// Why an input is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Location(#[from] Failure),
    #[error("{0}: not among the places that inputs may be read from")]
    NotAllowed(Location),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This machine's own disk.
    #[error("{folder}: a fetched video cannot be kept here: {source}", folder = folder.display())]
    Temporary { folder: PathBuf, source: std::io::Error },
    #[error("{url}: no room among the fetched videos (worker.temporary_bytes): {why}")]
    NoRoom { url: String, why: NoRoom },
}

impl FetchError {
    /// The stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            FetchError::Location(why) => &why.code,
            FetchError::NotAllowed(_) => "input_not_allowed",
            FetchError::Store(error) => error.code(),
            FetchError::Temporary { .. } => "temporary_storage",
            FetchError::NoRoom { why: NoRoom::Ever { .. }, .. } => "limit_temporary",
            FetchError::NoRoom { why: NoRoom::Now { .. }, .. } => "no_room",
        }
    }
}

impl Inputs {
    pub fn new(allow: Vec<Location>, settings: StoreSettings, disk: Disk) -> Self {
        Self { allow, settings, disk, buckets: Mutex::default() }
    }

    /// # Errors
    /// It is no location, or none that may be read.
    pub fn locate(&self, text: &str) -> Result<Location, FetchError> {
        let location = Location::parse(text)?;
        if self.allow.is_empty() || location.is_within(&self.allow) {
            return Ok(location);
        }
        Err(FetchError::NotAllowed(location))
    }

    /// Brings a video here, in the version that was listed, as soon as there is room for it.
    ///
    /// # Errors
    /// It is not there, too large, another one by now, or cannot be kept.
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
                        Ok((Fetched::Here(path.clone()), info))
                    }
                    _ => Err(not_found(location).into()),
                }
            }
            Location::S3 { bucket, key } => {
                let bucket = self.bucket(bucket)?;
                for _ in 0..REPLACED {
                    match self.copy(&bucket, key, etag, limit, priority).await {
                        // Nobody has listed it, so whichever version stands there is meant.
                        Err(FetchError::Store(StoreError::Changed { .. })) if etag.is_none() => {}
                        other => return other,
                    }
                }
                Err(StoreError::Unavailable { url, reason: "it is replaced again and again".into() }.into())
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
        // Its size must be known before its first byte comes; and the version of that size is the one that is read.
        let there = bucket.head(key).await?.ok_or_else(|| StoreError::NotFound { url: url.clone() })?;
        if there.size > limit {
            return Err(StoreError::TooLarge { url, limit }.into());
        }
        let room = self.disk.room.reserve(there.size, priority, self.disk.patience).await;
        let room = room.map_err(|why| FetchError::NoRoom { url: url.clone(), why })?;
        let etag = etag.or(there.etag.as_deref());
        let file = temporary_file(&self.disk.folder).map_err(|source| self.of_this_disk(source))?;
        let mut file = tokio::fs::File::from_std(file);
        let ObjectInfo { size, etag, .. } = match bucket.fetch(key, etag, &mut file, there.size).await {
            Ok(info) => info,
            // A file of this machine that cannot be written is the worker's trouble, not the bucket's.
            Err(StoreError::Io { reason, .. }) => return Err(self.of_this_disk(reason)),
            Err(other) => return Err(other.into()),
        };
        let file = file.into_std().await;
        Ok((Fetched::Copied(file, room), InputInfo { url, bytes: Some(size), etag }))
    }

    fn of_this_disk(&self, source: std::io::Error) -> FetchError {
        FetchError::Temporary { folder: self.disk.folder.clone(), source }
    }

    /// A link inside an allowed folder may lead out of it.
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

    /// A small object, whole: a manifest.
    ///
    /// # Errors
    /// It is not there, or larger than `limit`.
    pub async fn read(&self, location: &Location, limit: u64) -> Result<Bytes, FetchError> {
        let (store, key) = self.open(location)?;
        let found = store.get(&key, limit).await?;
        Ok(found.ok_or_else(|| not_found(location))?)
    }

    /// At most `limit` objects below a prefix, after the key `after`, in the order of their keys; and the last key that was
    /// looked at, if there may be more.
    ///
    /// # Errors
    /// The prefix cannot be listed.
    pub async fn page(
        &self,
        prefix: &Location,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Found>, Option<String>), FetchError> {
        let (store, folder) = match prefix {
            Location::Local(path) => (self.folder(path)?, String::new()),
            Location::S3 { bucket, key } => (self.bucket(bucket)?, key.trim_end_matches('/').to_owned()),
        };
        let objects = store.page(&folder, after, limit).await?;
        let next = (objects.len() == limit).then(|| objects[limit - 1].key.clone());
        let found = objects.into_iter().map(|object| Found {
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

/// What the name of a fetched video begins with, for the moment in which it has one.
const PREFIX: &str = "flamingo-video-";

/// A name that is older than this is nobody's who is still at work.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// A file without a name.
fn temporary_file(folder: &Path) -> std::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems (NFS) know no such files, and old kernels take the flag for a wish to open the folder.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => briefly_named(folder),
        Err(error) => Err(error.into()),
    }
}

/// The next best: its name is taken away at once, and whoever dies between the two leaves an empty file.
fn briefly_named(folder: &Path) -> std::io::Result<File> {
    let named = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    Ok(named.into_file())
}

/// Removes names that dead workers left in the folder for fetched videos; how many.
///
/// # Errors
/// The folder cannot be read.
pub fn sweep_leftovers(folder: &Path) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Who cannot be asked or removed is another user's, or gone.
        let age = entry.metadata().ok().and_then(|of| of.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age >= LEFT_BEHIND) && std::fs::remove_file(entry.path()).is_ok() {
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
    fn nothing_is_left_of_a_fetched_video() {
        let folder = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        for make in [temporary_file, briefly_named] {
            let mut file = make(folder.path()).unwrap();
            std::io::Write::write_all(&mut file, b"bytes").unwrap();
            assert_eq!(names(), 0, "a killed process leaves nothing");
        }
        let error = temporary_file(&folder.path().join("nowhere")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    /// Where a file has a name for a moment, a worker may die in it.
    #[test]
    fn what_dead_workers_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        made("flamingo-video-Ab12Cd", LEFT_BEHIND * 2);
        made("flamingo-video-Ef34Gh", Duration::ZERO);
        made("somebody-else", LEFT_BEHIND * 2);
        assert_eq!(sweep_leftovers(folder.path()).unwrap(), 1);
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["flamingo-video-Ef34Gh", "somebody-else"]);
        assert!(sweep_leftovers(&folder.path().join("nowhere")).is_err());
    }
}
