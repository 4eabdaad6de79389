//! Rejection of unknown fields in types with flattened fields, where serde's `deny_unknown_fields` does not work.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The last flattened field of a type: accepts no field at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoUnknownFields;

impl Serialize for NoUnknownFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }
}

impl<'de> Deserialize<'de> for NoUnknownFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rejecting;
        impl<'de> Visitor<'de> for Rejecting {
            type Value = NoUnknownFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no further fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                match map.next_entry::<String, IgnoredAny>()? {
                    None => Ok(NoUnknownFields),
                    Some((name, _)) => Err(A::Error::custom(format_args!("unknown field `{name}`"))),
                }
            }
        }
        deserializer.deserialize_map(Rejecting)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ITEM_SCHEMA, Item, JobMessage};
    use super::*;

    #[test]
    fn rejects_unknown_fields_next_to_flattened_ones() {
        let job = r#"{"schema": "flamingo.job/1", "job_id": "a", "tasks": [{"kind": "caption"}], "input": {"video": "a.mp4"}"#;
        let parse = |more: &str| serde_json::from_str::<JobMessage>(&format!("{job}{more}}}"));
        assert_eq!(parse("").unwrap().rest, NoUnknownFields);
        assert_eq!(parse(r#", "window": 2"#).unwrap().spec.window, Some(2.0));
        for (more, expected) in [
            (r#", "windows": 2"#, "unknown field `windows`"),
            (r#", "sampling": {"fps": {"fps": 1, "every": 2}}"#, "unknown field `every`"),
            (r#", "tasks": []"#, "duplicate field `tasks`"),
        ] {
            let error = parse(more).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let item = format!(
            r#"{{"schema": "{ITEM_SCHEMA}", "job_id": "a", "item_id": "b", "video": "v", "tasks": [], "odd": null}}"#
        );
        let error = serde_json::from_str::<Item>(&item).unwrap_err().to_string();
        assert!(error.contains("unknown field `odd`"), "{error}");
    }
}
