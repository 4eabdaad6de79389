//! Media of examples: files of this machine, and objects in S3.

use std::path::{Path, PathBuf};

#[cfg(feature = "service")]
use video_worker::inputs::Fetched;

#[cfg(feature = "service")]
use super::stored::Remote;
use crate::inputs::local_path;

/// Opens media; connects to S3 for the first object in it.
#[derive(Default)]
pub struct MediaReader {
    #[cfg(feature = "service")]
    remote: Option<Remote>,
}

/// A medium on this machine, as long as this value exists.
pub enum LocalMedium {
    File(PathBuf),
    #[cfg(feature = "service")]
    Fetched(Fetched),
}

impl LocalMedium {
    /// Returns the path of its bytes.
    pub fn path(&self) -> PathBuf {
        match self {
            LocalMedium::File(path) => path.clone(),
            #[cfg(feature = "service")]
            LocalMedium::Fetched(fetched) => fetched.path(),
        }
    }
}

impl MediaReader {
    /// Opens a medium: a path, a `file://` URL, or an object in S3, which is fetched.
    ///
    /// # Errors
    /// The object does not exist, is too large, or the store is unavailable.
    #[cfg(feature = "service")]
    pub fn open(&mut self, media: &str) -> anyhow::Result<LocalMedium> {
        if !media.starts_with("s3://") {
            return Ok(LocalMedium::File(local_path(Path::new(media))?));
        }
        let remote = match &mut self.remote {
            Some(remote) => remote,
            none => none.insert(Remote::open()?),
        };
        remote.fetch(media).map(LocalMedium::Fetched)
    }

    /// Opens a medium: a path, or a `file://` URL.
    ///
    /// # Errors
    /// The URL names another machine.
    #[cfg(not(feature = "service"))]
    pub fn open(&mut self, media: &str) -> anyhow::Result<LocalMedium> {
        Ok(LocalMedium::File(local_path(Path::new(media))?))
    }
}
