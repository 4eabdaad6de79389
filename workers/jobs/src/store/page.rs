//! Listing of objects, page by page.

use futures_util::TryStreamExt;
use object_store::ObjectStore;
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};

use super::raw_keys::decode_key;
use super::{ObjectInfo, Store, StoreError};

/// Maximum keys of one response of S3.
const MAX_KEYS: usize = 1000;

impl Store {
    /// Lists `limit` objects in the folder `prefix` (empty: the root) and below, from the start or after `after`, the last key
    /// of the previous page. The order is bytewise by key, except on S3-compatible stores with an order of their own
    /// (SeaweedFS lists folder by folder). A missing folder is empty.
    ///
    /// S3 lists every key, also those that [`check_key`](Self::check_key) refuses, and markers of folders.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        match &self.s3 {
            Some(s3) => self.s3_page(s3, prefix, after, limit).await,
            None => self.other_page(prefix, after, limit).await,
        }
    }

    async fn s3_page(
        &self,
        s3: &AmazonS3,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let folder = |path: &str| if path.is_empty() { String::new() } else { format!("{path}/") };
        let root = folder(self.root.as_ref());
        if !prefix.is_empty() {
            self.check_key(prefix)?;
        }
        let below = format!("{root}{}", folder(prefix));
        let mut page = Vec::new();
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions {
                offset: after.map(|after| format!("{root}{after}")),
                max_keys: Some((limit - page.len()).min(MAX_KEYS)),
                page_token,
                ..PaginatedListOptions::default()
            };
            let listed = s3
                .list_paginated(Some(&below).filter(|below| !below.is_empty()).map(String::as_str), options);
            let listed = listed.await.map_err(|reason| self.error(prefix, reason))?;
            for meta in listed.result.objects {
                let key = decode_key(meta.location.as_ref()).ok_or_else(|| self.not_utf8())?;
                // The marker of the folder itself is no object in it.
                match key.strip_prefix(&root) {
                    Some(relative) if key != below => {
                        page.push(ObjectInfo { key: relative.to_owned(), size: meta.size, etag: meta.e_tag });
                    }
                    Some(_) | None => {}
                }
            }
            page_token = listed.page_token;
            if page_token.is_none() || page.len() >= limit {
                page.truncate(limit);
                return Ok(page);
            }
        }
    }

    fn not_utf8(&self) -> StoreError {
        StoreError::Unsupported {
            url: self.shown.clone(),
            reason: "it lists keys that are not UTF-8".to_owned(),
        }
    }

    async fn other_page(
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
        let found = found
            .map_err(|reason| self.error(prefix, reason))
            .try_filter_map(|meta| std::future::ready(Ok(self.info(meta))));
        // The folder walk has no order, so each page needs the whole walk.
        let mut all: Vec<_> = found.try_collect().await?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let mut page = Vec::new();
        for info in all {
            if page.len() == limit {
                break;
            }
            if self.check_inside_root(&info.key).await.is_ok() {
                page.push(info);
            }
        }
        Ok(page)
    }
}
