//! Support sets: stored by name and version, and encoded once for all items of this worker.

mod encoded;
mod stored;

#[cfg(test)]
mod tests;

pub use encoded::{EncodedSets, UsableExamples};
pub use stored::{Added, StoredSets, StoredVersion, SupportStoreError};
