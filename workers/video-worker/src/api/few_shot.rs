//! Few-shot examples of jobs: support sets by name or in the job, and the choice of examples.

use std::fmt;
use std::str::FromStr;

use flamingo::few_shot::SupportExample;
use inference::shot_options::ShotOptions;
use jobs::Failure;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::NoUnknownFields;

/// Few-shot examples that a prompt shows before each video. `S` is the source of the support set: as the job names it, or its
/// version, which items have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FewShot<S> {
    pub support: S,
    #[serde(flatten)]
    pub options: ShotOptions,
    #[serde(flatten)]
    pub rest: NoUnknownFields,
}

/// Source of a support set, as a job names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupportSource {
    Stored(SupportRef),
    /// The examples themselves; their media are locations, as those of inputs.
    Inline(Vec<SupportExample>),
}

/// Name of a stored support set: 1 to 64 letters, digits, `-`, `_` and `.`, of which the first is a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SupportName(String);

/// Version of a support set: the SHA-256 of its canonical JSON lines, in 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SupportHash(String);

/// Reference to a stored support set: `NAME`, which means its current version, or `NAME@VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportRef {
    pub name: SupportName,
    pub version: Option<SupportHash>,
}

/// A fixed version of a support set. Sets that stand in a job have no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportVersion {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SupportName>,
    pub version: SupportHash,
}

const MAX_NAME_BYTES: usize = 64;

impl<S> FewShot<S> {
    /// Returns examples of a source, chosen as `options` say.
    pub fn new(support: S, options: ShotOptions) -> Self {
        Self { support, options, rest: NoUnknownFields }
    }

    /// Returns the same choice from another source.
    pub fn of<T>(&self, support: T) -> FewShot<T> {
        FewShot::new(support, self.options)
    }
}

impl TryFrom<String> for SupportName {
    type Error = Failure;

    fn try_from(name: String) -> Result<Self, Failure> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && name.len() <= MAX_NAME_BYTES && name.chars().all(plain) {
            return Ok(Self(name));
        }
        let shown: String = name.chars().take(80).collect();
        let rule = "the name of a support set has 1 to 64 letters, digits, `-`, `_` and `.`, and begins with a letter or digit";
        Err(Failure::new("bad_request", format!("{shown:?}: {rule}")))
    }
}

impl TryFrom<String> for SupportHash {
    type Error = Failure;

    fn try_from(hash: String) -> Result<Self, Failure> {
        if hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(hash));
        }
        let shown: String = hash.chars().take(80).collect();
        let rule = "the version of a support set has 64 hexadecimal digits";
        Err(Failure::new("bad_request", format!("{shown:?}: {rule}")))
    }
}

impl FromStr for SupportRef {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(SupportHash::try_from(version.to_owned())?)),
            None => (text, None),
        };
        Ok(Self { name: SupportName::try_from(name.to_owned())?, version })
    }
}

impl fmt::Display for SupportName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SupportHash {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SupportRef {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Displays `NAME@VERSION`, or the version of a set without a name.
impl fmt::Display for SupportVersion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}@{}", self.version),
            None => write!(f, "{}", self.version),
        }
    }
}

impl From<SupportName> for String {
    fn from(name: SupportName) -> Self {
        name.0
    }
}

impl From<SupportHash> for String {
    fn from(hash: SupportHash) -> Self {
        hash.0
    }
}

impl Serialize for SupportSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SupportSource::Stored(name) => serializer.collect_str(name),
            SupportSource::Inline(examples) => examples.serialize(serializer),
        }
    }
}

/// By hand: the error of an untagged enum would not tell what is wrong.
impl<'de> Deserialize<'de> for SupportSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrExamples;
        impl<'de> Visitor<'de> for NameOrExamples {
            type Value = SupportSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a stored support set, or a list of examples")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SupportSource, E> {
                text.parse().map(SupportSource::Stored).map_err(|why: Failure| E::custom(why.message))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<SupportSource, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(SupportSource::Inline)
            }
        }
        deserializer.deserialize_any(NameOrExamples)
    }
}

#[cfg(test)]
mod tests {
    use flamingo::few_shot::Selection;

    use super::*;

    #[test]
    fn names_and_versions_are_parsed() {
        let hash = "0123456789abcdef".repeat(4);
        for text in ["birds", "A.b-c_9", "7", &"n".repeat(64), &format!("birds@{hash}")] {
            assert_eq!(text.parse::<SupportRef>().unwrap().to_string(), *text);
        }
        for (text, expected) in [
            ("", "has 1 to 64 letters"),
            (".hidden", "begins with a letter or digit"),
            ("a/b", "has 1 to 64 letters"),
            ("vögel", "has 1 to 64 letters"),
            (&"n".repeat(65), "has 1 to 64 letters"),
            ("birds@", "64 hexadecimal digits"),
            (&format!("birds@{}", hash.to_uppercase()), "64 hexadecimal digits"),
        ] {
            let error = text.parse::<SupportRef>().unwrap_err();
            assert!(error.code == "bad_request" && error.message.contains(expected), "{error:?}");
        }
    }

    #[test]
    fn a_job_names_a_set_or_lists_examples() {
        let parse = serde_json::from_str::<FewShot<SupportSource>>;
        let named = parse(r#"{"support": "birds"}"#).unwrap();
        assert_eq!((named.options.shots, named.options.selection()), (4, Selection::Nearest));
        let text = r#"{"support":[{"media":"a.mp4","output":"owl"}],"shots":2,"select":"random","seed":7,"permutations":6}"#;
        let inline = parse(text).unwrap();
        assert_eq!(inline.options.selection(), Selection::Random { seed: 7 });
        assert_eq!(serde_json::to_string(&inline).unwrap(), text);
        for (text, expected) in [
            (r#"{"support": 7}"#, "the name of a stored support set, or a list of examples"),
            (r#"{"support": "a b"}"#, "has 1 to 64 letters"),
            (r#"{"support": [{"media": "a", "label": "owl"}]}"#, "unknown field `label`"),
            (r#"{"support": "birds", "order": "first"}"#, "unknown field `order`"),
            (r#"{"support": "birds", "select": "best"}"#, "unknown variant `best`"),
            (r#"{"support": "birds", "permutations": 0}"#, "nonzero"),
            (r#"{"shots": 3}"#, "missing field `support`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
