//! Downloads of videos.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use jobs::store::{ObjectInfo, Store, StoreError};

use super::temp_file::temporary_file;
use super::{FetchError, Inputs, Location, not_found};
use crate::admission::Reservation;
use crate::api::{InputInfo, Priority};

/// Number of changes of an object between HEAD and GET after which the download fails.
const MAX_REPLACEMENTS: usize = 5;

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

impl Inputs {
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
                Err(StoreError::Unavailable { url, reason: "the object keeps changing".into() }.into())
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
            Err(StoreError::Io { reason, .. }) => return Err(self.disk_error(reason)),
            Err(other) => return Err(other.into()),
        };
        let file = file.into_std().await;
        Ok((Fetched::Downloaded(file, room), InputInfo { url, bytes: Some(size), etag }))
    }

    fn disk_error(&self, source: std::io::Error) -> FetchError {
        FetchError::Temporary { folder: self.disk.folder.clone(), source }
    }
}
