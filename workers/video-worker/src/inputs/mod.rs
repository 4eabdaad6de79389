//! Access to inputs: locations, downloads, listing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use jobs::Failure;
use jobs::store::{Store, StoreError, StoreSettings};

use crate::admission::{Budget, NoRoom};

mod download;
mod list;
mod location;
mod temp_file;

pub use download::Fetched;
pub use list::{EntryKind, PrefixEntry, PrefixPage};
pub use location::Location;
pub use temp_file::remove_abandoned_files;

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
    /// Time that a download waits for disk space.
    pub timeout: Duration,
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

    /// Returns the budget of the disk for downloads.
    pub fn disk_budget(&self) -> &Budget {
        &self.disk.room
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

    /// Checks that a video exists and may be read.
    ///
    /// # Errors
    /// It does not exist, is not allowed, or its store is unavailable.
    pub async fn check(&self, location: &Location) -> Result<(), FetchError> {
        match location {
            Location::Local(path) => {
                self.check_links(path)?;
                match tokio::fs::metadata(path).await {
                    Ok(file) if file.is_file() => Ok(()),
                    _ => Err(not_found(location).into()),
                }
            }
            Location::S3 { bucket, key } => match self.bucket(bucket)?.head(key).await? {
                Some(_) => Ok(()),
                None => Err(not_found(location).into()),
            },
        }
    }

    /// Rejects paths whose symbolic links lead out of the allowed folders.
    fn check_links(&self, path: &Path) -> Result<(), FetchError> {
        let Some(places) = self.real_places() else { return Ok(()) };
        let real = std::fs::canonicalize(path).map_err(|_| not_found(&Location::Local(path.into())))?;
        if is_within(&real, &places) {
            return Ok(());
        }
        Err(FetchError::NotAllowed(Location::Local(path.into())))
    }

    /// Returns the allowed folders without links; `None`: every folder is allowed.
    fn real_places(&self) -> Option<Vec<PathBuf>> {
        let folder = |place: &Location| match place {
            Location::Local(folder) => std::fs::canonicalize(folder).ok(),
            Location::S3 { .. } => None,
        };
        (!self.allow.is_empty()).then(|| self.allow.iter().filter_map(folder).collect())
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

/// Whether a path without links lies in one of the folders.
fn is_within(real: &Path, folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| real.starts_with(folder))
}

fn not_found(location: &Location) -> StoreError {
    StoreError::NotFound { url: location.to_string() }
}
