//! Names of models: `owner/name`, with an optional `@revision`.

use std::fmt;

/// Largest length of the owner, and of the name, in bytes.
const PART_LIMIT: usize = 96;
/// Largest length of a revision in bytes.
const REVISION_LIMIT: usize = 200;
/// Revision of a name without one.
pub const DEFAULT_REVISION: &str = "main";

/// Name of a repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoName {
    owner: String,
    name: String,
}

impl RepoName {
    /// Parses `owner/name`.
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a name of a model: expected `owner/name`");
        let (owner, name) = text.split_once('/').ok_or_else(wrong)?;
        if !is_part(owner) || !is_part(name) {
            return Err(wrong());
        }
        Ok(Self { owner: owner.into(), name: name.into() })
    }

    /// Name of the folder of the repository in the cache, as Python's huggingface_hub has it.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

fn is_part(part: &str) -> bool {
    (1..=PART_LIMIT).contains(&part.len())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        // The hub allows neither, and `--` separates the parts of a folder's name.
        && !part.contains("--")
        && !part.contains("..")
}

/// Name of a model at a revision: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    pub repo: RepoName,
    pub revision: String,
}

impl ModelName {
    /// Parses `owner/name` or `owner/name@revision`.
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        check_revision(revision)?;
        Ok(Self { repo: RepoName::parse(repo)?, revision: revision.into() })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Checks the form of a revision. It becomes a path in the cache.
///
/// # Errors
/// The revision has another form.
pub fn check_revision(text: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if text.len() <= REVISION_LIMIT && text.split('/').all(part) {
        return Ok(());
    }
    Err(format!("`{text}` is not a revision: expected a branch, a tag or a commit"))
}

/// Whether the text is the full hash of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_with_and_without_revision() {
        for (text, folder, revision) in [
            ("a/b", "models--a--b", "main"),
            (
                "openflamingo/OpenFlamingo-3B-vitl-mpt1b@v2.0",
                "models--openflamingo--OpenFlamingo-3B-vitl-mpt1b",
                "v2.0",
            ),
            ("a.b/c_d-e@refs/pr/1", "models--a.b--c_d-e", "refs/pr/1"),
        ] {
            let name = ModelName::parse(text).unwrap();
            assert_eq!((name.repo.folder().as_str(), name.revision.as_str()), (folder, revision));
            assert_eq!(name.to_string(), text);
        }
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "", "a", "/a", "a/", "a/b/c", "../b", "a/..", "a/b--c", "a/ b", "a/b@", "a/b@../c", "a/b@/c",
            "a/b\n", &long,
        ] {
            assert!(ModelName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn recognises_commits() {
        assert!(is_commit(&"0a".repeat(20)));
        for text in ["main", &"0A".repeat(20), &"0a".repeat(19), &"0g".repeat(20)] {
            assert!(!is_commit(text), "{text}");
        }
    }
}
