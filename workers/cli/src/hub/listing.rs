//! Listing of a repository: the files of a commit, with sizes and hashes. Names come from a server and are checked.

use anyhow::bail;
use serde::Deserialize;

use super::hash::Hash;

/// Largest number of files of a repository.
pub const FILES_LIMIT: usize = 100_000;
/// Largest length of a path, and of one of its parts, in bytes.
const PATH_LIMIT: usize = 1000;
const PART_LIMIT: usize = 255;

/// A file of a repository. The path is relative and has plain parts only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    pub hash: Hash,
}

/// Entry of a listing, as the hub sends it.
#[derive(Debug, Deserialize)]
pub struct ListedEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl ListedEntry {
    /// Checks an entry. Directories are `None`: the listing is recursive.
    ///
    /// # Errors
    /// The path leaves the folder of the repository, or the hash is malformed.
    pub fn check(self) -> anyhow::Result<Option<RemoteFile>> {
        if self.kind != "file" {
            return Ok(None);
        }
        if !is_safe(&self.path) {
            bail!("the hub lists a file with the name {:?}, which is not a plain relative path", self.path);
        }
        let (size, hash, digits) = match self.lfs {
            Some(large) => (large.size, Hash::Sha256(large.oid), 64),
            None => (self.size, Hash::Git(self.oid), 40),
        };
        let lower = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if hash.digits().len() != digits || !hash.digits().bytes().all(lower) {
            bail!("the hub lists {} with a malformed {}", self.path, hash.kind());
        }
        Ok(Some(RemoteFile { path: self.path, size, hash }))
    }
}

/// Whether a path stays in its folder and has no special characters.
fn is_safe(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= PART_LIMIT
            && part != "."
            && part != ".."
            && !part.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
    };
    path.len() <= PATH_LIMIT && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> anyhow::Result<Option<RemoteFile>> {
        serde_json::from_str::<ListedEntry>(json).unwrap().check()
    }

    #[test]
    fn reads_small_and_large_files() {
        let oid = "ce013625030ba8dba906f756967f9e9ca394464a";
        let small = check(&format!(r#"{{"type":"file","oid":"{oid}","size":6,"path":"a/config.json"}}"#));
        let file = RemoteFile { path: "a/config.json".into(), size: 6, hash: Hash::Git(oid.into()) };
        assert_eq!(small.unwrap(), Some(file));
        let sha = "ab".repeat(32);
        let large = check(&format!(
            r#"{{"type":"file","oid":"{oid}","size":134,"path":"m.bin","lfs":{{"oid":"{sha}","size":9,"pointerSize":134}}}}"#
        ));
        assert_eq!(
            large.unwrap(),
            Some(RemoteFile { path: "m.bin".into(), size: 9, hash: Hash::Sha256(sha) })
        );
        assert_eq!(
            check(&format!(r#"{{"type":"directory","oid":"{oid}","size":0,"path":"a"}}"#)).unwrap(),
            None
        );
    }

    #[test]
    fn hostile_names_and_hashes_are_refused() {
        let oid = "ce013625030ba8dba906f756967f9e9ca394464a";
        let long = "a/".repeat(600) + "b";
        for path in
            ["/etc/passwd", "../a", "a/../b", "a//b", "./a", "", "a/", "a\\b", "c:a", "a\u{7}", "..", &long]
        {
            let path = serde_json::to_string(path).unwrap();
            let error =
                check(&format!(r#"{{"type":"file","oid":"{oid}","size":1,"path":{path}}}"#)).unwrap_err();
            assert!(error.to_string().contains("not a plain relative path"), "{error}");
        }
        for oid in ["", "../../a", &oid[1..], &oid.to_uppercase()] {
            let error =
                check(&format!(r#"{{"type":"file","oid":"{oid}","size":1,"path":"a"}}"#)).unwrap_err();
            assert!(error.to_string().contains("malformed git hash"), "{error}");
        }
    }
}
