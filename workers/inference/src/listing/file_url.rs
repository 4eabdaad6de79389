//! `file://` URLs (RFC 8089) and paths.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Error of a `file://` URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileUrlError {
    #[error(
        "the URL names the machine {0:?}, and only files of this machine are read: write file:///folder/clip.mp4 with three slashes, or a path"
    )]
    OtherHost(String),
    #[error("a path cannot contain a NUL character (%00)")]
    Nul,
}

/// Bytes that stay as they are in the URLs of [`file_url`].
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Converts a `file://` URL to a path: `%20` is a space, and the host is empty or `localhost`. `file://./folder` is relative to
/// the working directory. `None`: the text is no such URL.
///
/// # Errors
/// The URL names another host, or the path contains a NUL character.
pub fn parse_file_url(text: &str) -> Option<Result<PathBuf, FileUrlError>> {
    let rest = match text.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("file://") => &text[7..],
        _ => return None,
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = match host {
        "" => path,
        "." => rest,
        host if host.eq_ignore_ascii_case("localhost") => path,
        host => return Some(Err(FileUrlError::OtherHost(host.to_owned()))),
    };
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.contains(&0) {
        return Some(Err(FileUrlError::Nul));
    }
    Some(Ok(PathBuf::from(OsString::from_vec(bytes))))
}

/// Returns the `file://` URL of an absolute path, whatever bytes the path has.
pub fn file_url(path: &Path) -> String {
    format!("file://{}", percent_encode(path.as_os_str().as_bytes(), ENCODED))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn urls_become_paths() {
        for (url, expected) in [
            ("file:///a/b.mp4", "/a/b.mp4"),
            ("file:///my%20birds/50%25.mp4", "/my birds/50%.mp4"),
            ("file:///k%C3%B6nig.mp4", "/könig.mp4"),
            ("file:///100%.mp4", "/100%.mp4"),
            ("file://localhost/a/b%23.mp4", "/a/b#.mp4"),
            ("FILE://LocalHost/a", "/a"),
            ("file://./videos/a%20b", "./videos/a b"),
        ] {
            assert_eq!(parse_file_url(url).unwrap().unwrap(), Path::new(expected), "{url}");
        }
        for path in ["/a/b.mp4", "file:/a", "file", "s3://b/k", "ﬁle://a", ""] {
            assert_eq!(parse_file_url(path), None, "{path}");
        }
    }

    #[test]
    fn other_hosts_are_refused() {
        for (url, host) in [
            ("file://server/share/a.mp4", "server"),
            ("file://a.mp4", "a.mp4"),
            ("file://127.0.0.1/a", "127.0.0.1"),
        ] {
            let error = parse_file_url(url).unwrap().unwrap_err();
            assert_eq!(error, FileUrlError::OtherHost(host.into()));
        }
        assert_eq!(parse_file_url("file:///a%00b").unwrap(), Err(FileUrlError::Nul));
    }

    #[test]
    fn every_path_has_a_url() {
        for path in [&b"/a/caf\xe9 \n100%.mp4"[..], b"/plain-name_1.~"] {
            let path = Path::new(OsStr::from_bytes(path));
            assert_eq!(parse_file_url(&file_url(path)).unwrap().unwrap(), path);
        }
        assert_eq!(file_url(Path::new("/a b/é")), "file:///a%20b/%C3%A9");
    }
}
