//! Tests of the message format against its documentation.

use std::collections::HashSet;

use flamingo::digest::sha256;
use flamingo::video::FrameSampling;
use inference::analysis::AnalysisSpec;
use jobs::message::{item_message, parse_item_message};
use jobs::queue::{Lane, Message};
use jobs::trace::TraceContext;
use jobs::{Disposition, JobId, RetryCost};
use serde_json::json;

use super::*;
use crate::jobs::expand::item_id;

const DOCS: &str = include_str!("../../../../docs/jobs.md");

fn examples() -> Vec<&'static str> {
    DOCS.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn documented_examples_are_valid() {
    let [job, line] = examples()[..] else { panic!("a job and a line of a manifest") };
    let job = JobMessage::read(job.as_bytes()).unwrap();
    job.check().unwrap();
    // Every field is in the example, and every field of the example in the table.
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json(&job)).unwrap();
    assert_eq!(fields.len(), 17);
    for field in fields.keys() {
        assert!(DOCS.contains(&format!("`{field}`")), "{field}");
    }
    let line: ManifestLine = serde_json::from_str(line).unwrap();
    assert!(line.tasks(validate::TaskDemands::of(&job)).unwrap().is_some());
}

#[test]
fn request_hash_ignores_id_and_reply_properties() {
    let job = JobMessage::read(examples()[0].as_bytes()).unwrap();
    let hash = |job: &JobMessage| job.to_new().unwrap().request_sha256;
    let renamed = JobMessage {
        job_id: None,
        reply_to: None,
        correlation_id: None,
        priority: Priority::Urgent,
        ..job.clone()
    };
    assert_eq!(hash(&job), hash(&renamed));
    let spec = AnalysisSpec { max_frames: 65, ..job.spec.clone() };
    let other = JobMessage { spec, ..job.clone() };
    assert_ne!(hash(&job), hash(&other));
    // A number that changes in a JSON round trip would make a job conflict with itself.
    let sampling = FrameSampling::fps(0.101_666_666_666_666_67);
    let spec = AnalysisSpec { sampling, window: Some(0.1 + 0.2), ..job.spec.clone() };
    let odd = JobMessage { spec, ..job };
    assert_eq!(hash(&odd), hash(&JobMessage::from_ledger(&json(&odd)).unwrap()));
}

#[test]
fn item_ids_are_plain_and_distinct() {
    assert_eq!(item_id("a_b.mp4").as_str(), "a_b.mp4");
    let names = ["a b.mp4", "a/b.mp4", "a_b .mp4", "ä.mp4", "", ".hidden", "-.a b", ".-. ", &"x".repeat(300)];
    let ids: HashSet<_> = names.iter().map(|name| item_id(name)).collect();
    assert_eq!(ids.len(), names.len());
}

#[test]
fn newer_schema_is_retried_later() {
    let refusal = |schema: &str| {
        let body = format!(r#"{{"schema": "{schema}", "more": 1}}"#);
        let stopped = JobMessage::parse(&Message::new("job".into(), schema, body)).unwrap_err();
        (stopped.disposition, stopped.failure.code)
    };
    let free = Disposition::Retry(RetryCost::Free);
    assert_eq!(refusal("flamingo.job/2"), (free, "newer_schema".into()));
    for schema in ["flamingo.job/0", "flamingo.job", "other.job/2", "flamingo.item/1"] {
        assert_eq!(refusal(schema), (Disposition::Fail, "unknown_schema".into()), "{schema}");
    }
}

/// The ledger keeps hashes of earlier versions: the same request must keep its hash.
#[test]
fn request_hash_is_stable() {
    let text = r#"{"schema":"flamingo.job/1","tasks":[{"kind":"caption"}],"input":{"video":"a.mp4"},"sampling":{"fps":{"fps":2.0}},"window":1.5,"max_frames":9,"generation":{"strategy":{"kind":"greedy"},"max_new_tokens":7},"output":"team"}"#;
    let job: JobMessage = serde_json::from_str(text).unwrap();
    let job = JobMessage { job_id: Some(JobId::try_from("any".to_owned()).unwrap()), ..job };
    let sampling = json(&job.spec.sampling);
    let text = text.replace(r#"{"fps":{"fps":2.0}}"#, &sampling);
    assert_eq!(job.to_new().unwrap().request_sha256, sha256(text.as_bytes()));
}

/// Reports keep hashes of earlier versions: the same request must keep its hash.
#[test]
fn item_request_hash_is_stable() {
    let text = r#"{"video":"a.mp4","etag":"e1","tasks":[{"kind":"caption"}],"sampling":{"fps":{"fps":2.0}},"window":1.5,"max_frames":9,"generation":{"strategy":{"kind":"greedy"},"max_new_tokens":7},"model":"mini"}"#;
    let ids = r#"{"schema":"flamingo.item/1","job_id":"any","item_id":"any","custom_id":"any","output":"any","priority":"urgent","#;
    let item = Item::parse(&text.replacen('{', ids, 1)).unwrap();
    let text = text.replace(r#"{"fps":{"fps":2.0}}"#, &json(&item.spec.sampling));
    assert_eq!(item.request_sha256(), sha256(text.as_bytes()));
}

/// The build before parses the schema of a message first, as [`parse`](jobs::message::parse) does, and reads
/// `flamingo.item/1`: it requeues the new form at no attempt. This build accepts both forms.
#[test]
fn item_messages_of_both_versions_are_accepted() {
    let ids = (JobId::try_from("birds".to_owned()).unwrap(), item_id("a.mp4"));
    let old = r#"{"schema": "flamingo.item/1", "job_id": "birds", "item_id": "a.mp4", "video": "s3://b/a.mp4",
        "tasks": [{"kind": "caption"}], "sampling": {"uniform": {"n": 8}}, "max_frames": 64, "generation": {"strategy": {"kind": "greedy"}, "max_new_tokens": 3}}"#;
    let new = item_message(ITEM_MESSAGE_SCHEMA, &ids.0, &ids.1, Lane::Items, &TraceContext::default());
    for message in [Message::new("birds/a.mp4".into(), ITEM_SCHEMA, old), new.clone()] {
        let parsed = parse_item_message(&message, ITEM_MESSAGE_SCHEMA, Some(ITEM_SCHEMA));
        assert_eq!(parsed, Ok(ids.clone()));
    }
    let stopped = parse_item_message(&new, ITEM_SCHEMA, None).unwrap_err();
    assert_eq!(stopped.disposition, Disposition::Retry(RetryCost::Free));
    assert_eq!(Item::parse(old).unwrap().item_id, ids.1);
}

#[test]
fn requests_that_cannot_be_done_are_refused() {
    let check = |change: &dyn Fn(&mut serde_json::Value), expected: Option<&str>| {
        let mut job: serde_json::Value = serde_json::from_str(examples()[0]).unwrap();
        change(&mut job);
        let error = JobMessage::read(job.to_string().as_bytes()).unwrap().check().err();
        let text = error.as_ref().map(|error| format!("{}: {error}", error.code));
        match expected {
            Some(expected) => assert!(text.as_ref().is_some_and(|text| text.contains(expected)), "{text:?}"),
            None => assert_eq!(text, None),
        }
    };
    for (queue, expected) in [
        (String::new(), Some("bad_request: `reply_to` is empty, longer than 255 bytes")),
        ("q".repeat(255), None),
        ("q".repeat(256), Some("`reply_to` is empty, longer than 255 bytes")),
        ("ö".repeat(128), Some("`reply_to` is empty, longer than 255 bytes")),
        ("a\nb".into(), Some("or contains control characters")),
        ("my answers.böx".into(), None),
    ] {
        check(&|job| job["reply_to"] = queue.clone().into(), expected);
    }
    for fps in [1e308, 10_000.5, 1e19] {
        check(&|job| job["sampling"]["fps"]["fps"] = fps.into(), Some("at most 10000 frames per second"));
    }
    check(&|job| job["sampling"]["fps"]["fps"] = 10_000.into(), None);
    for task in [
        serde_json::json!({ "kind": "question", "question": "What\0?" }),
        serde_json::json!({ "kind": "complete", "prompt": "<video>\0" }),
        serde_json::json!({ "kind": "question", "question": "\0" }),
    ] {
        check(&|job| job["tasks"] = serde_json::json!([task]), Some("contains the character U+0000"));
    }
    check(&|job| job["tasks"][1]["question"] = "Two\nlines?".into(), None);
}

#[test]
fn few_shot_examples_are_checked() {
    let check = |tasks: serde_json::Value, few_shot: serde_json::Value, expected: Option<&str>| {
        let mut job: serde_json::Value = serde_json::from_str(examples()[0]).unwrap();
        (job["tasks"], job["few_shot"]) = (tasks, few_shot);
        let error = JobMessage::read(job.to_string().as_bytes()).unwrap().check().err();
        let text = error.map(|error| format!("{}: {error}", error.code)).unwrap_or_default();
        assert!(expected.map_or(text.is_empty(), |expected| text.contains(expected)), "{text}");
    };
    let (caption, classify) = (json!([{ "kind": "caption" }]), json!([{ "kind": "classify" }]));
    let inline = |outputs: &[&str]| -> serde_json::Value {
        let example = |output: &&str| json!({ "media": "s3://videos/a.mp4", "output": output });
        json!({ "support": outputs.iter().map(example).collect::<Vec<_>>() })
    };
    check(classify.clone(), json!({ "support": "birds" }), None);
    check(classify.clone(), inline(&["owl", "frog"]), None);
    check(classify.clone(), serde_json::Value::Null, Some("needs `labels`, or `few_shot`"));
    check(classify, inline(&["owl", "owl"]), Some("2 to 1000 labels, not 1"));
    check(caption.clone(), inline(&["owl", "owl"]), None);
    check(caption.clone(), inline(&["owl", "owl "]), Some("bad_request: `few_shot`: examples 1 and 2"));
    check(caption.clone(), json!({ "support": [] }), Some("1 to 100000 examples, not 0"));
    for shots in [0, 1001] {
        check(caption.clone(), json!({ "support": "birds", "shots": shots }), Some("not within 1 to 1000"));
    }
    let secret = json!({ "support": [{ "media": "s3://user:secret@host/a.mp4", "output": "owl" }] });
    check(caption, secret, Some("bad_location: \"s3://***@host/a.mp4\""));
    for task in [
        json!({ "kind": "complete", "prompt": "<video>Output:" }),
        json!({ "kind": "chat", "message": "What is this?" }),
    ] {
        let refused = "a free prompt (`complete`) and a conversation (`chat`) take no examples";
        check(json!([task]), json!({ "support": "birds" }), Some(refused));
    }
}

/// The longest key has the longest item id, and an `output` is refused for it, whatever its own names are.
#[test]
fn outputs_whose_keys_no_store_takes_are_refused() {
    let longest = "x".repeat(180);
    assert!(
        jobs::ItemId::try_from(longest.clone()).is_ok() && jobs::ItemId::try_from(longest + "x").is_err()
    );
    let mut job = JobMessage::read(examples()[0].as_bytes()).unwrap();
    let rest = longest_key("", job.job_id.as_ref().unwrap()).len() + 1;
    for (bytes, accepted) in
        [(1024 - rest, true), (1025 - rest, false), (1101, false), (981, false), (4000, false)]
    {
        job.output = "team/".repeat(bytes / 5) + &"t".repeat(bytes % 5);
        if job.output.ends_with('/') {
            job.output.replace_range(bytes - 1.., "t");
        }
        assert_eq!(job.output.len(), bytes);
        let checked = job.check();
        assert_eq!(checked.is_ok(), accepted, "{bytes} bytes: {checked:?}");
        if let Err(error) = checked {
            let text =
                format!("`output` has {bytes} bytes: keys of its results may have more than 1024 bytes");
            assert_eq!((error.code.as_str(), error.message), ("bad_request", text));
        }
    }
}
