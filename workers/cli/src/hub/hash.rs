//! Hashes by which the hub names files: SHA-256 of large files, git's hash of small ones.

use flamingo::digest::hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Hash that the hub lists for a file, in lowercase hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of the header `blob SIZE` and the content, as git computes it.
    Git(String),
}

impl Hash {
    /// The digits.
    pub fn digits(&self) -> &str {
        match self {
            Hash::Sha256(digits) | Hash::Git(digits) => digits,
        }
    }

    /// Name of the hash in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Hash::Sha256(_) => "SHA-256",
            Hash::Git(_) => "git hash",
        }
    }

    /// Begins to hash a file of `size` bytes.
    pub fn begin(&self, size: u64) -> Hasher {
        match self {
            Hash::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Hash::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash in progress.
pub enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Git(hash) => hash.update(bytes),
        }
    }

    /// Returns the digits.
    pub fn finish(self) -> String {
        match self {
            Hasher::Sha256(hash) => hex(&hash.finalize()),
            Hasher::Git(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_git_does() {
        // `printf 'hello\n' | git hash-object --stdin`
        let hash = Hash::Git("ce013625030ba8dba906f756967f9e9ca394464a".into());
        let mut hasher = hash.begin(6);
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        assert_eq!(hasher.finish(), hash.digits());
    }
}
