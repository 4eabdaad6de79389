//! Locations of videos: `s3://bucket/key`, `file:///path`, or a path.

use std::fmt;
use std::path::{Component, PathBuf};

use inference::listing::parse_file_url;
use jobs::Failure;
use jobs::secret_url::SecretUrl;

/// Location of a video, a manifest or a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    S3 { bucket: String, key: String },
    Local(PathBuf),
}

impl Location {
    /// Parses a location: `s3://bucket/key`, a `file://` URL, or a path. Only `file://` URLs are percent-decoded.
    ///
    /// # Errors
    /// `bad_location`: another scheme, no bucket, another host, or a path with `..`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        // The text may contain an access key and a secret before the bucket.
        let shown = if text.contains("://") { SecretUrl::new(text).to_string() } else { text.to_owned() };
        let shown: String = shown.chars().take(200).collect();
        let bad = |why: &str| Err(Failure::new("bad_location", format!("{shown:?}: {why}")));
        if text.is_empty() || text.len() > 4096 || text.chars().any(char::is_control) {
            return bad("not a location of a video");
        }
        let path = match (parse_file_url(text), text.split_once("://")) {
            (Some(path), _) => match path {
                Ok(path) => path,
                Err(why) => return bad(&why.to_string()),
            },
            (None, None) => PathBuf::from(text),
            (None, Some(("s3", rest))) => return Self::parse_s3(rest).or_else(bad),
            (None, Some(_)) => return bad("videos are read from s3:// and from files"),
        };
        if path.as_os_str().is_empty() {
            return bad("not a location of a video");
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return bad("a path must not contain `..`");
        }
        Ok(Location::Local(path))
    }

    fn parse_s3(rest: &str) -> Result<Self, &'static str> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(['@', '?', ':']) {
            return Err("the name of the bucket is not valid");
        }
        if key.split('/').any(|part| part == ".." || part == ".") {
            return Err("a key must not contain `..` or `.`");
        }
        Ok(Location::S3 { bucket: bucket.into(), key: key.into() })
    }

    /// Whether the location is within one of the allowed buckets, prefixes and folders. Only whole path segments match.
    pub fn is_within(&self, places: &[Location]) -> bool {
        places.iter().any(|place| match (self, place) {
            (Location::Local(path), Location::Local(folder)) => path.starts_with(folder),
            (Location::S3 { bucket, key }, Location::S3 { bucket: allowed, key: prefix }) => {
                let prefix = prefix.trim_end_matches('/');
                let below = key.strip_prefix(prefix);
                bucket == allowed
                    && below.is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
            }
            _ => false,
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Location::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Location::Local(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_locations() {
        for (text, shown) in [
            ("s3://bucket/a/b c.mp4", "s3://bucket/a/b c.mp4"),
            ("s3://bucket", "s3://bucket/"),
            ("file:///videos/a.mp4", "/videos/a.mp4"),
            ("clips/a.mp4", "clips/a.mp4"),
            ("file:///my%20videos/50%25.mp4", "/my videos/50%.mp4"),
            ("file://localhost/videos/a.mp4", "/videos/a.mp4"),
            ("my%20videos/a.mp4", "my%20videos/a.mp4"),
            ("s3://bucket/a%20b.mp4", "s3://bucket/a%20b.mp4"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "s3://",
            "s3:///key",
            "s3://user:secret@host/key",
            "s3://bucket/../other",
            "http://169.254.169.254/latest",
            "concat:a|b://x",
            "clips/../../etc/passwd",
            "file:///a/../b",
            "file:///a/%2e%2e/b",
            "file:///a%2f..%2fb",
            "file:///a%00b",
            "file://server/share/a.mp4",
            "file://",
            "file://localhost",
            "a\nb",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error.code, "bad_location", "{text:?}");
            assert!(!error.message.contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn matches_whole_path_segments() {
        let places = ["s3://open", "s3://shared/team/", "/videos"].map(|p| Location::parse(p).unwrap());
        for (text, expected) in [
            ("s3://open/any/key", true),
            ("s3://shared/team/a.mp4", true),
            ("s3://shared/team", true),
            ("s3://shared/team2/a.mp4", false),
            ("s3://shared", false),
            ("s3://opened/key", false),
            ("/videos/a.mp4", true),
            ("/videos2/a.mp4", false),
            ("videos/a.mp4", false),
        ] {
            assert_eq!(Location::parse(text).unwrap().is_within(&places), expected, "{text}");
        }
    }
}
