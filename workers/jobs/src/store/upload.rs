//! Multipart uploads of large objects.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;

use super::{Store, StoreError};

/// Bytes of one part.
const PART: usize = 8 << 20;
/// Maximum parts that are sent concurrently.
const CONCURRENT_PARTS: usize = 4;

/// Unfinished upload of an object.
pub struct Upload {
    writer: BufWriter,
    store: Store,
    key: String,
}

impl Upload {
    pub(super) fn new(store: &Store, key: &str, path: Path) -> Self {
        let writer = BufWriter::with_capacity(store.backend.clone(), path, PART);
        let writer = writer.with_max_concurrency(CONCURRENT_PARTS);
        Self { writer, store: store.clone(), key: key.to_owned() }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.writer.put(bytes).await.map_err(|reason| self.store.error(&self.key, reason))
    }

    /// Finishes the upload and makes the object visible.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses; the object is not visible then.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        self.writer.shutdown().await.map_err(|reason| StoreError::of_io(self.store.url(&self.key), reason))
    }

    /// Aborts the upload and deletes its parts.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses; the object is not visible then either.
    #[cfg(test)]
    pub async fn abort(mut self) -> Result<(), StoreError> {
        self.writer.abort().await.map_err(|reason| self.store.error(&self.key, reason))
    }
}
