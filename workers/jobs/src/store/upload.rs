//! Large objects, written piece by piece and seen whole or not at all.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;

use super::{Store, StoreError};

/// Bytes of one part of an upload; so many are under way at once.
const PART: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 4;

/// An object that is being written.
pub struct Upload {
    writer: BufWriter,
    store: Store,
    key: String,
}

impl Upload {
    pub(super) fn new(store: &Store, key: &str, path: Path) -> Self {
        let writer = BufWriter::with_capacity(store.backend.clone(), path, PART);
        let writer = writer.with_max_concurrency(PARTS_AT_ONCE);
        Self { writer, store: store.clone(), key: key.to_owned() }
    }

    /// # Errors
    /// The store cannot be reached, or refuses.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.writer.put(bytes).await.map_err(|why| self.store.error(&self.key, why))
    }

    /// # Errors
    /// The store cannot be reached, or refuses; nothing of it is seen then.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        self.writer.shutdown().await.map_err(|why| StoreError::of_io(self.store.url(&self.key), why))
    }

    /// Removes what was sent.
    ///
    /// # Errors
    /// The store cannot be reached, or refuses; nothing of it is seen then either.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        self.writer.abort().await.map_err(|why| self.store.error(&self.key, why))
    }
}
