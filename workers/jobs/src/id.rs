//! Ids of jobs and items.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// Checks the characters of an id, which becomes a part of object keys and file names.
fn is_valid_id(text: &str, max: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=max).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.')
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Failure;

            fn try_from(text: String) -> Result<Self, Failure> {
                if is_valid_id(&text, $max) {
                    return Ok(Self(text));
                }
                let shown: String = text.chars().take(40).collect();
                Err(Failure::new("bad_id", format!(
                    "{shown:?} is no {}: 1 to {} letters, digits, `.`, `_` or `-`, not beginning with `.`", $what, $max
                )))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// Unique id of a job, also the name of its folder in the store.
    JobId, "job id", 128
);
id_type!(
    /// Id of an item, unique within its job, also the name of its report.
    ItemId, "item id", 180
);

impl JobId {
    /// Generates a new id. Ids sort by the time at which they were generated (UUID version 7).
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_in_keys_and_file_names() {
        for good in ["a", "01930c2e-7b1c-7000-8000-000000000000", "clip_1.mp4"] {
            assert_eq!(ItemId::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let long = "x".repeat(181);
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\n", "%2e", long.as_str()] {
            assert_eq!(ItemId::try_from(bad.to_owned()).unwrap_err().code, "bad_id", "{bad:?}");
        }
    }
}
