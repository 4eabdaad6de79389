//! Listing of prefixes, and reading of manifests.

use std::io;
use std::path::Path;

use bytes::Bytes;
use inference::listing::{Entry, Found, SkipReason, file_url, parse_file_url, walk};
use jobs::Failure;
use jobs::store::{ObjectInfo, Store, StoreError};

use super::{FetchError, Inputs, Location, is_within, not_found};

/// Part of a prefix, in a stable order.
#[derive(Debug)]
pub struct PrefixPage {
    pub entries: Vec<PrefixEntry>,
    /// Cursor of the next page; `None` after the last one.
    pub next: Option<String>,
}

/// File or object below a prefix.
#[derive(Debug, PartialEq, Eq)]
pub struct PrefixEntry {
    /// Path relative to the prefix. A file name that is not UTF-8 or has control characters is percent-encoded.
    pub name: String,
    pub kind: EntryKind,
}

/// Content of a [`PrefixEntry`].
#[derive(Debug, PartialEq, Eq)]
pub enum EntryKind {
    Input {
        location: Location,
        etag: Option<String>,
    },
    /// File or object whose name no input may have.
    BadName {
        url: String,
        reason: Failure,
    },
    /// Folder whose files are not known.
    UnreadableFolder {
        url: String,
        reason: Failure,
    },
    Skipped(SkipReason),
}

impl Inputs {
    /// Reads a small object into memory: a manifest.
    ///
    /// # Errors
    /// It does not exist, or is larger than `limit`.
    pub async fn read(&self, location: &Location, limit: u64) -> Result<Bytes, FetchError> {
        match location {
            Location::S3 { bucket, key } => {
                let found = self.bucket(bucket)?.get(key, limit).await?;
                Ok(found.ok_or_else(|| not_found(location))?)
            }
            Location::Local(path) => {
                self.check_links(path)?;
                let failed = |why: io::Error| local_error(location, why);
                let file = tokio::fs::metadata(path).await.map_err(failed)?;
                if !file.is_file() {
                    return Err(not_found(location).into());
                }
                if file.len() > limit {
                    return Err(StoreError::TooLarge { url: location.to_string(), limit }.into());
                }
                Ok(tokio::fs::read(path).await.map_err(failed)?.into())
            }
        }
    }

    /// Lists at most `limit` files or objects below a prefix, from the start or from the cursor of an earlier page. Links out of
    /// a folder are followed into allowed places only.
    ///
    /// # Errors
    /// The prefix cannot be listed.
    pub async fn page(
        &self,
        prefix: &Location,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<PrefixPage, FetchError> {
        match prefix {
            Location::Local(folder) => self.folder_page(folder, cursor, limit).await,
            Location::S3 { bucket, key } => {
                let (store, folder) = (self.bucket(bucket)?, key.trim_end_matches('/'));
                let objects = store.page(folder, cursor, limit).await?;
                let next = (objects.len() == limit).then(|| objects[limit - 1].key.clone());
                let entries = objects.into_iter().map(|object| object_entry(&store, bucket, folder, object));
                Ok(PrefixPage { entries: entries.collect(), next })
            }
        }
    }

    async fn folder_page(
        &self,
        folder: &Path,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<PrefixPage, FetchError> {
        self.check_links(folder)?;
        let after = cursor.and_then(|url| parse_file_url(url)?.ok());
        let after = after.and_then(|path| Some(path.strip_prefix("/").ok()?.to_path_buf()));
        let (root, places) = (folder.to_path_buf(), self.real_places());
        let listed = tokio::task::spawn_blocking(move || -> io::Result<Vec<Entry>> {
            // The walk does not fail, so this tells whether the folder can be read at all.
            std::fs::read_dir(&root)?;
            let may_follow = |target: &Path| places.as_ref().is_none_or(|places| is_within(target, places));
            Ok(walk(&root, after, may_follow).take(limit).collect())
        });
        let listed = listed.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let entries = listed.map_err(|why| local_error(&Location::Local(folder.into()), why))?;
        let next = (entries.len() == limit).then(|| encoded(&entries[limit - 1].name));
        Ok(PrefixPage { entries: entries.into_iter().map(file_entry).collect(), next })
    }
}

/// Returns a relative path as a URL of a file in the root folder.
fn encoded(name: &Path) -> String {
    file_url(&Path::new("/").join(name))
}

fn object_entry(store: &Store, bucket: &str, folder: &str, object: ObjectInfo) -> PrefixEntry {
    let ObjectInfo { key, size, etag } = object;
    let below = key.strip_prefix(folder).filter(|_| !folder.is_empty());
    let name = below.and_then(|below| below.strip_prefix('/')).unwrap_or(&key).to_owned();
    let problem = if key.chars().any(char::is_control) {
        Some("has control characters")
    } else {
        let refused = store.check_key(&key).is_err();
        refused.then_some("begins or ends with `/`, or has `//`, `/./` or `/../`")
    };
    let location = Location::S3 { bucket: bucket.to_owned(), key };
    let kind = match (SkipReason::of_object(&name, size), problem) {
        (Some(reason), _) => EntryKind::Skipped(reason),
        (None, None) => EntryKind::Input { location, etag },
        (None, Some(problem)) => {
            let url = location.to_string();
            let reason = format!("{url}: the key {problem}; copy the object to another key");
            EntryKind::BadName { url, reason: Failure::new("bad_name", reason) }
        }
    };
    PrefixEntry { name, kind }
}

fn file_entry(Entry { path, name, found }: Entry) -> PrefixEntry {
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    let plain = name.to_str().filter(|name| !name.chars().any(char::is_control));
    let kind = match (found, plain) {
        (Found::Skipped(reason), _) => EntryKind::Skipped(reason),
        (Found::Unreadable(why), _) => {
            let url = file_url(&absolute);
            let error = local_error(&Location::Local(path), why);
            let reason =
                Failure::new(error.code(), format!("{error}: the files of this folder are not known"));
            EntryKind::UnreadableFolder { url, reason }
        }
        (Found::File, Some(_)) => EntryKind::Input { location: Location::Local(path), etag: None },
        (Found::File, None) => {
            let url = file_url(&absolute);
            let reason = format!(
                "{url}: the name is not UTF-8 or has control characters; rename the file, or name it by this URL in a manifest"
            );
            EntryKind::BadName { url, reason: Failure::new("bad_name", reason) }
        }
    };
    let name = plain.map_or_else(|| encoded(&name).trim_start_matches("file:///").to_owned(), str::to_owned);
    PrefixEntry { name, kind }
}

fn local_error(location: &Location, reason: io::Error) -> StoreError {
    let url = location.to_string();
    match reason.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StoreError::NotFound { url },
        io::ErrorKind::PermissionDenied => StoreError::Forbidden { url, reason: "permission denied" },
        _ => StoreError::Io { url, reason },
    }
}
