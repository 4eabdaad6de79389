//! Listing of prefixes, and reading of manifests.

use std::path::Path;

use bytes::Bytes;
use jobs::store::Store;

use super::{FetchError, Inputs, Location, not_found};

/// An object below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Path relative to the prefix.
    pub name: String,
    pub location: Location,
    pub etag: Option<String>,
}

impl Inputs {
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
}
