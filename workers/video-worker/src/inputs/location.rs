//! Locations of videos: `s3://bucket/key`, `file:///path`, or a path.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use jobs::Failure;
use jobs::secret_url::SecretUrl;

/// Location of a video, a manifest or a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    S3 { bucket: String, key: String },
    Local(PathBuf),
}

impl Location {
    /// Parses a location.
    ///
    /// # Errors
    /// `bad_location`: another scheme, no bucket, or a path with `..`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        // The text may contain an access key and a secret before the bucket.
        let shown = if text.contains("://") { SecretUrl::new(text).to_string() } else { text.to_owned() };
        let shown: String = shown.chars().take(200).collect();
        let bad = |why: &str| Err(Failure::new("bad_location", format!("{shown:?}: {why}")));
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => ("file", text),
        };
        if text.len() > 4096 || text.chars().any(char::is_control) || rest.is_empty() {
            return bad("not a location of a video");
        }
        match scheme {
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || bucket.contains(['@', '?', ':']) {
                    return bad("the name of the bucket is not valid");
                }
                if key.split('/').any(|part| part == ".." || part == ".") {
                    return bad("a key must not contain `..` or `.`");
                }
                Ok(Location::S3 { bucket: bucket.into(), key: key.into() })
            }
            "file" if Path::new(rest).components().any(|c| c == Component::ParentDir) => {
                bad("a path must not contain `..`")
            }
            "file" => Ok(Location::Local(rest.into())),
            _ => bad("videos are read from s3:// and from files"),
        }
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
