//! Inputs, from where they are to a file that the decoder can be handed.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use jobs::Failure;
use jobs::store::{ObjectInfo, Store, StoreError, StoreSettings};
use serde::Serialize;

use crate::location::Location;

/// Where inputs may be read from, and how.
pub struct Inputs {
    /// Everywhere if it is empty.
    allow: Vec<Location>,
    settings: StoreSettings,
    /// Where fetched videos lie.
    temporary: PathBuf,
    /// Opened once per bucket: connections are kept.
    buckets: Mutex<HashMap<String, Store>>,
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
    Copied(File),
}

impl Fetched {
    /// Where this process can open it.
    pub fn path(&self) -> PathBuf {
        match self {
            Fetched::Here(path) => path.clone(),
            Fetched::Copied(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
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
    #[error("{folder}: {source}", folder = folder.display())]
    Temporary { folder: PathBuf, source: std::io::Error },
}

impl FetchError {
    /// The stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            FetchError::Location(why) => &why.code,
            FetchError::NotAllowed(_) => "input_not_allowed",
            FetchError::Store(error) => error.code(),
            FetchError::Temporary { .. } => "temporary_storage",
        }
    }
}

impl Inputs {
    pub fn new(allow: Vec<Location>, settings: StoreSettings, temporary: PathBuf) -> Self {
        Self { allow, settings, temporary, buckets: Mutex::default() }
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

    /// Brings a video here, in the version that was listed.
    ///
    /// # Errors
    /// It is not there, too large, another one by now, or cannot be kept.
    pub async fn fetch(
        &self,
        location: &Location,
        etag: Option<&str>,
        limit: u64,
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
                let mut file = tokio::fs::File::from_std(self.temporary_file()?);
                let fetched = bucket.fetch(key, etag, &mut file, limit).await;
                let ObjectInfo { size, etag, .. } = fetched.map_err(|error| self.of_this_disk(error))?;
                let file = file.into_std().await;
                Ok((Fetched::Copied(file), InputInfo { url, bytes: Some(size), etag }))
            }
        }
    }

    fn temporary_file(&self) -> Result<File, FetchError> {
        let made = tempfile::tempfile_in(&self.temporary);
        made.map_err(|source| FetchError::Temporary { folder: self.temporary.clone(), source })
    }

    /// A file of this machine that cannot be written is the worker's trouble, not the bucket's.
    fn of_this_disk(&self, error: StoreError) -> FetchError {
        match error {
            StoreError::Io { why, .. } => {
                FetchError::Temporary { folder: self.temporary.clone(), source: why }
            }
            other => other.into(),
        }
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

fn not_found(location: &Location) -> StoreError {
    StoreError::NotFound { url: location.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Verdict, of_fetching};

    #[test]
    fn a_full_disk_is_the_workers_trouble_and_nothing_is_left_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs::new(Vec::new(), StoreSettings::default(), folder.path().into());
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = inputs.of_this_disk(StoreError::Io { url: "s3://b/a.mp4".into(), why: full });
        assert_eq!((error.code(), of_fetching(&error)), ("temporary_storage", Verdict::Unfit));

        let mut file = inputs.temporary_file().unwrap();
        std::io::Write::write_all(&mut file, b"bytes").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a killed process leaves nothing");
        let fetched = Fetched::Copied(file);
        assert_eq!(std::fs::read(fetched.path()).unwrap(), b"bytes");
    }
}
