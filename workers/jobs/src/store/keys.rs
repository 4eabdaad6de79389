//! Limits of keys.

use super::{Store, StoreError};

/// Maximum bytes of a key in S3.
const MAX_S3_KEY: usize = 1024;
/// Maximum bytes of a file name and of a path in Linux, less four for the name of an unfinished file (`name#123`).
const MAX_FILE_NAME: usize = 251;
const MAX_FILE_PATH: usize = 4091;

impl Store {
    /// Checks that objects with this key can be read and written.
    ///
    /// # Errors
    /// The key is empty or too long, has control characters, or has an empty part, `.` or `..` between its slashes.
    pub fn check_key(&self, key: &str) -> Result<(), StoreError> {
        self.path(key).map(drop)
    }

    /// Checks that a key is not too long for the store. [`check_key`](Self::check_key) checks its
    /// characters.
    ///
    /// # Errors
    /// S3: the key has more than 1024 bytes, with the root. A folder: a name has more than 251 bytes, or the path more than 4091.
    pub fn check_key_length(&self, key: &str) -> Result<(), StoreError> {
        let too_long = |what: &str, bytes: usize, most: usize| {
            let reason = format!("{what} has {bytes} bytes, and at most {most} are possible");
            Err(StoreError::BadUrl { url: self.shown.clone(), reason })
        };
        if let Some(folder) = &self.folder {
            let name = key.split('/').map(str::len).max().unwrap_or_default();
            let path = folder.join(key).as_os_str().len();
            if name > MAX_FILE_NAME {
                return too_long("a file name", name, MAX_FILE_NAME);
            }
            if path > MAX_FILE_PATH {
                return too_long("a path", path, MAX_FILE_PATH);
            }
        } else if self.s3.is_some() {
            let bytes = self.root.as_ref().len() + "/".len() + key.len();
            if bytes > MAX_S3_KEY {
                return too_long("a key", bytes, MAX_S3_KEY);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::store::StoreSettings;

    use super::*;

    #[test]
    fn keys_have_the_limits_of_their_store() {
        let folder = tempfile::tempdir().unwrap();
        let open = |url: &str| Store::open(url, &StoreSettings::default()).unwrap();
        let check = |store: &Store, key: &str, expected: Option<&str>| {
            let error = store.check_key_length(key).err().map(|error| error.to_string());
            assert!(
                match (expected, &error) {
                    (Some(expected), Some(error)) => error.contains(expected),
                    (None, None) => true,
                    _ => false,
                },
                "{} bytes: {error:?}",
                key.len()
            );
        };
        let s3 = open("s3://bucket/root");
        check(&s3, &"k".repeat(1019), None);
        check(&s3, &"k".repeat(1020), Some("1025 bytes, and at most 1024"));
        check(&s3, &"é".repeat(510), Some("1025 bytes"));
        let disk = open(&format!("file://{}", folder.path().display()));
        check(&disk, &format!("{}/a/{}", "b".repeat(251), "c".repeat(251)), None);
        check(&disk, &format!("a/{}/c", "b".repeat(252)), Some("a file name has 252 bytes"));
        check(&disk, &"a/".repeat(2100), Some("a path has"));
        check(&open("memory://"), &"k".repeat(9000), None);
    }

    /// The longest names that the check accepts can be written, and the disk refuses longer ones for ever.
    #[tokio::test]
    async fn the_disk_takes_what_the_check_takes() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(&format!("file://{}", folder.path().display()), &StoreSettings::default()).unwrap();
        let longest = format!("{}/{}", "b".repeat(251), "c".repeat(251));
        store.put_new(&longest, "x".into()).await.unwrap();
        let mut upload = store.upload(&format!("{}/d", "b".repeat(251))).unwrap();
        upload.write("x".into()).await.unwrap();
        upload.finish().await.unwrap();
        let too_long = "c".repeat(256);
        // A disk with shorter names refuses them itself, with ENAMETOOLONG.
        let refused: object_store::Error = object_store::Error::Generic {
            store: "disk",
            source: Box::new(std::io::Error::from(std::io::ErrorKind::InvalidFilename)),
        };
        for error in [
            store.put_new(&too_long, "x".into()).await.unwrap_err(),
            store.put(&format!("{too_long}/d"), "x".into()).await.unwrap_err(),
            store.get(&too_long, 1).await.unwrap_err(),
            store.upload(&format!("{too_long}/d")).err().unwrap(),
            StoreError::new("file://disk/key".to_owned(), refused),
        ] {
            assert_eq!((error.code(), error.is_transient()), ("bad_url", false), "{error}");
        }
    }
}
