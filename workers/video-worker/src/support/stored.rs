//! Stored support sets. A version is an immutable object that is named by its hash, `support/NAME/VERSION.jsonl`; the object
//! `support/NAME/current` names the version that `NAME` alone means. It is written last, so that it never names a missing one.

use std::collections::BTreeMap;

use bytes::Bytes;
use flamingo::digest::sha256;
use flamingo::few_shot::SupportSet;
use jobs::store::{Put, Store, StoreError};

use crate::api::{SupportHash, SupportName, SupportRef, SupportVersion};

/// Folder below the store.
const FOLDER: &str = "support";
/// Folder in it of the sets that stand in jobs. No name begins with an underscore.
const OF_JOBS: &str = "_jobs";
const CURRENT: &str = "current";

/// Largest support set in bytes.
const MAX_SET_BYTES: u64 = 64 << 20;
/// Objects per request of a listing.
const PAGE: usize = 1000;

/// Stored support sets.
#[derive(Clone)]
pub struct StoredSets {
    store: Store,
}

/// Result of [`StoredSets::add`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    pub version: SupportVersion,
    /// Whether this content is a new version.
    pub is_new: bool,
}

/// A version of a named support set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub name: SupportName,
    pub version: SupportHash,
    /// Whether the name alone means this version.
    pub is_current: bool,
}

/// Error of reading or changing stored support sets.
#[derive(Debug, thiserror::Error)]
pub enum SupportStoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{url}: there is no such support set")]
    NotFound { url: String },
    #[error("{url}: is not this version of the support set: {reason}")]
    Invalid { url: String, reason: String },
    #[error("the support set has {bytes} bytes, {MAX_SET_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error(
        "{version}: is the current version of {name}, which has others: add the one that shall be current, or remove {name} whole"
    )]
    IsCurrent { name: SupportName, version: SupportVersion },
}

impl SupportStoreError {
    /// Returns the stable code of this error, part of the public contract.
    pub fn code(&self) -> &str {
        match self {
            SupportStoreError::Store(error) => error.code(),
            SupportStoreError::NotFound { .. } => "support_not_found",
            SupportStoreError::Invalid { .. }
            | SupportStoreError::TooLarge { .. }
            | SupportStoreError::IsCurrent { .. } => "bad_support",
        }
    }
}

impl StoredSets {
    /// Returns the support sets in the folder `support` of a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores a set, and makes it the current version of its name.
    ///
    /// # Errors
    /// The set is too large, the store is unavailable, or another object is in the place of this version.
    pub async fn add(&self, name: &SupportName, set: &SupportSet) -> Result<Added, SupportStoreError> {
        let (version, is_new) = self.put(Some(name), set).await?;
        let current = current_key(name);
        let now = self.store.get(&current, 1 << 10).await?;
        if now.is_none_or(|now| now != version.version.to_string()) {
            self.store.put(&current, Bytes::from(version.version.to_string())).await?;
        }
        Ok(Added { version, is_new })
    }

    /// Stores the set of a job, which has no name.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub async fn add_of_job(&self, set: &SupportSet) -> Result<SupportVersion, SupportStoreError> {
        Ok(self.put(None, set).await?.0)
    }

    async fn put(
        &self,
        name: Option<&SupportName>,
        set: &SupportSet,
    ) -> Result<(SupportVersion, bool), SupportStoreError> {
        let lines = set.to_json_lines();
        if lines.len() as u64 > MAX_SET_BYTES {
            return Err(SupportStoreError::TooLarge { bytes: lines.len() });
        }
        let version = SupportHash::try_from(sha256(lines.as_bytes())).expect("a SHA-256 has 64 digits");
        let version = SupportVersion { name: name.cloned(), version };
        let key = key(&version);
        match self.store.put_new(&key, Bytes::from(lines)).await? {
            Put::Created => Ok((version, true)),
            Put::Same => Ok((version, false)),
            Put::Other(_) => Err(self.invalid(&key, "another object is in its place")),
        }
    }

    /// Returns the version that a reference means. That of a reference with a version need not exist.
    ///
    /// # Errors
    /// There is no set of this name, or the store is unavailable.
    pub async fn resolve(&self, reference: &SupportRef) -> Result<SupportVersion, SupportStoreError> {
        let SupportRef { name, version } = reference;
        let version = match version {
            Some(version) => version.clone(),
            None => self.current(name).await?.ok_or_else(|| self.not_found(&format!("{FOLDER}/{name}")))?,
        };
        Ok(SupportVersion { name: Some(name.clone()), version })
    }

    /// Returns the current version of a name; `None` if there is none.
    async fn current(&self, name: &SupportName) -> Result<Option<SupportHash>, SupportStoreError> {
        let key = current_key(name);
        let Some(bytes) = self.store.get(&key, 1 << 10).await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        SupportHash::try_from(text).map(Some).map_err(|why| self.invalid(&key, &why.message))
    }

    /// Reads a version.
    ///
    /// # Errors
    /// It does not exist, its object has another hash or is no support set, or the store is unavailable.
    pub async fn read(&self, version: &SupportVersion) -> Result<SupportSet, SupportStoreError> {
        let key = key(version);
        let bytes = self.store.get(&key, MAX_SET_BYTES).await?.ok_or_else(|| self.not_found(&key))?;
        if sha256(&bytes) != version.version.to_string() {
            return Err(self.invalid(&key, "it has another hash"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|why| self.invalid(&key, &why.to_string()))?;
        SupportSet::from_json_lines(text).map_err(|why| self.invalid(&key, &why.to_string()))
    }

    /// Lists all versions of all names, in the order of the names.
    ///
    /// # Errors
    /// The store is unavailable.
    pub async fn list(&self) -> Result<Vec<StoredVersion>, SupportStoreError> {
        let mut names: BTreeMap<SupportName, Vec<SupportHash>> = BTreeMap::new();
        for key in self.keys(FOLDER).await? {
            if let Some((name, version)) = parse_key(&key) {
                names.entry(name).or_default().push(version);
            }
        }
        let mut all = Vec::new();
        for (name, mut versions) in names {
            let current = self.current(&name).await?;
            versions.sort();
            all.extend(versions.into_iter().map(|version| StoredVersion {
                is_current: current.as_ref() == Some(&version),
                name: name.clone(),
                version,
            }));
        }
        Ok(all)
    }

    /// Removes a version, or a name with all its versions.
    ///
    /// # Errors
    /// It does not exist, it is the current one of several versions, or the store is unavailable.
    pub async fn remove(&self, reference: &SupportRef) -> Result<(), SupportStoreError> {
        let SupportRef { name, version } = reference;
        let folder = format!("{FOLDER}/{name}");
        let keys = self.keys(&folder).await?;
        let versions: Vec<_> = keys.iter().filter(|key| parse_key(key).is_some()).collect();
        let Some(version) = version else {
            // Only the objects of support sets are removed: others may be in the folder.
            if versions.is_empty() && !keys.contains(&current_key(name)) {
                return Err(self.not_found(&folder));
            }
            return self.remove_whole(name, &versions).await;
        };
        let version = SupportVersion { name: Some(name.clone()), version: version.clone() };
        let removed = key(&version);
        if !versions.contains(&&removed) {
            return Err(self.not_found(&removed));
        }
        if versions.len() == 1 {
            return self.remove_whole(name, &versions).await;
        }
        if self.current(name).await?.as_ref() == Some(&version.version) {
            return Err(SupportStoreError::IsCurrent { name: name.clone(), version });
        }
        Ok(self.store.delete(&removed).await?)
    }

    /// Removes a name: first the object that names the current version, so that it never names a missing one.
    async fn remove_whole(&self, name: &SupportName, versions: &[&String]) -> Result<(), SupportStoreError> {
        let current = current_key(name);
        if self.store.head(&current).await?.is_some() {
            self.store.delete(&current).await?;
        }
        for key in versions {
            self.store.delete(key).await?;
        }
        Ok(())
    }

    async fn keys(&self, folder: &str) -> Result<Vec<String>, SupportStoreError> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let page = self.store.page(folder, keys.last().map(String::as_str), PAGE).await?;
            let is_last = page.len() < PAGE;
            keys.extend(page.into_iter().map(|object| object.key));
            if is_last {
                return Ok(keys);
            }
        }
    }

    fn not_found(&self, key: &str) -> SupportStoreError {
        SupportStoreError::NotFound { url: self.store.url(key) }
    }

    fn invalid(&self, key: &str, reason: &str) -> SupportStoreError {
        SupportStoreError::Invalid { url: self.store.url(key), reason: reason.to_owned() }
    }
}

fn key(SupportVersion { name, version }: &SupportVersion) -> String {
    match name {
        Some(name) => format!("{FOLDER}/{name}/{version}.jsonl"),
        None => format!("{FOLDER}/{OF_JOBS}/{version}.jsonl"),
    }
}

fn current_key(name: &SupportName) -> String {
    format!("{FOLDER}/{name}/{CURRENT}")
}

/// Parses the key of a version of a named set.
fn parse_key(key: &str) -> Option<(SupportName, SupportHash)> {
    let (name, file) = key.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    let version = SupportHash::try_from(file.strip_suffix(".jsonl")?.to_owned()).ok()?;
    Some((SupportName::try_from(name.to_owned()).ok()?, version))
}
