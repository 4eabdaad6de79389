//! An invalid message becomes a dead letter with a reason, and its sender gets an event. One bad video does not fail a batch.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::broker::Broker;
use super::world::World;

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn one_bad_video_does_not_fail_the_others() {
    let world = World::new("one-bad");
    world.upload_clips(&[("a.mp4", "short"), ("c.webm", "vp8")]);
    world.upload("b.mp4", b"this is no video at all, whatever its name says".to_vec());
    let _worker = world.worker("worker");
    let broker = Broker::of(&world);
    broker.subscribe(&format!("{}.ends", world.name), Some("job.*"));
    let reply_to = format!("{}.mine", world.name);
    broker.subscribe(&reply_to, None);
    let over = json!({ "reply_to": reply_to, "correlation_id": "my number 7" });
    world.submit(&[world.job("one-bad", over)]).exits(0);

    world.check_whole("one-bad", "partially_succeeded", 2, 1);
    let errors = world.result_lines("one-bad/errors.jsonl");
    assert_eq!(
        (&errors[0]["item_id"], &errors[0]["error"]["code"]),
        (&json!("b.mp4"), &json!("unknown_container"))
    );
    assert_eq!(world.result_json("one-bad/items/b.mp4.json")["status"], "failed");
    let dead = broker.take_dead();
    assert_eq!(dead.header("x-reason-code").as_deref(), Some("unknown_container"));
    for message in [broker.take(&format!("{}.ends", world.name)), broker.take(&reply_to)] {
        let event = message.json();
        assert_eq!(
            (&event["event"], &event["counts"]["failed"]),
            (&json!("job.partially_succeeded"), &json!(1))
        );
        let correlation = message.properties.correlation_id().as_ref().map(ToString::to_string);
        assert_eq!(correlation.as_deref(), Some("my number 7"));
    }
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn invalid_jobs_become_dead_letters() {
    let world = World::new("refused");
    // The worker declares the queues.
    let _worker = world.worker("worker");
    let broker = Broker::of(&world);
    let reply_to = format!("{}.mine", world.name);
    broker.subscribe(&reply_to, None);
    let job = |over: Value| world.job("j", over).to_string().into_bytes();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("malformed_message", b"{\"schema\": \"flamingo.job/1\", ".to_vec(), "EOF while parsing"),
        ("malformed_message", b"\xff\xfe\x00".to_vec(), "not a valid flamingo.job/1 message"),
        ("malformed_message", job(json!({ "proirity": 3 })), "proirity"),
        ("malformed_message", job(json!({ "tasks": [{ "kind": "caption", "loud": true }] })), "loud"),
        (
            "message_too_large",
            job(json!({ "input": { "video": "x".repeat(1 << 20) } })),
            "1048576 are allowed",
        ),
        ("unknown_schema", job(json!({ "schema": "flamingo.jobs" })), "flamingo.jobs"),
        ("bad_request", job(json!({ "tasks": [] })), "between 1 and 64 tasks"),
        ("bad_location", job(json!({ "input": { "video": "http://169.254.169.254/" } })), "s3://"),
        ("bad_request", job(json!({ "sampling": { "fps": { "fps": -1.0 } } })), "fps"),
    ];
    for (n, (code, body, said)) in cases.into_iter().enumerate() {
        let properties = BasicProperties::default()
            .with_message_id(format!("case {n}").into())
            .with_reply_to(reply_to.as_str().into());
        broker.send(&body, properties);
        let dead = broker.take_dead();
        assert_eq!(dead.header("x-reason-code").as_deref(), Some(code), "case {n}");
        let reason = dead.header("x-reason").unwrap();
        assert!(reason.contains(said), "case {n}: {reason}");
        assert!(dead.body == body, "case {n}: the dead letter has another body");
        let event = broker.take(&reply_to).json();
        assert_eq!(
            (&event["event"], &event["error"]["code"]),
            (&json!("job.refused"), &json!(code)),
            "case {n}"
        );
        assert_eq!(event["message_id"], format!("case {n}"));
    }
}

/// A job with missing or forbidden inputs fails as a whole.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn jobs_without_usable_inputs_fail() {
    let world = World::new("no-inputs");
    let _worker = world.worker("worker");
    let videos = world.videos();
    world.upload(
        "list.jsonl",
        format!("{{\"custom_id\": \"a\", \"video\": \"{videos}/a.mp4\"}}\n{{\"custom\": 1}}\n").into(),
    );
    let cases = [
        ("nothing", json!({ "prefix": { "url": format!("{videos}/none/") } }), "no_inputs"),
        ("elsewhere", json!({ "video": "s3://another-bucket/a.mp4" }), "input_not_allowed"),
        ("local", json!({ "video": "/etc/passwd" }), "input_not_allowed"),
        ("climbs", json!({ "manifest": format!("{videos}/list.jsonl") }), "bad_manifest"),
        ("absent", json!({ "manifest": format!("{videos}/absent.jsonl") }), "not_found"),
    ];
    for (id, input, code) in cases {
        world.submit(&[world.job(id, json!({ "input": input }))]).exits(0);
        let shown = world.ended(id);
        assert_eq!(
            (&shown["status"], &shown["error"]["code"]),
            (&json!("failed"), &json!(code)),
            "{shown:#}"
        );
        let manifest = world.result_json(&format!("{id}/manifest.json"));
        assert_eq!(manifest["error"]["code"], code);
    }
    // A missing video fails its item.
    world
        .submit(&[world.job("gone", json!({ "input": { "video": format!("{videos}/gone.mp4") } }))])
        .exits(0);
    world.check_whole("gone", "failed", 0, 1);
    assert_eq!(world.result_lines("gone/errors.jsonl")[0]["error"]["code"], "not_found");
}

/// Each line of a manifest has its own id and its own questions.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn manifest_lines_have_their_own_questions() {
    let world = World::new("manifest");
    world.upload_clips(&[("a.mp4", "short")]);
    let videos = world.videos();
    let line = |id: &str, over: Value| {
        let mut line = json!({ "custom_id": id, "video": format!("{videos}/a.mp4") });
        line.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        format!("{line}\n")
    };
    let lines = [
        line("plain", json!({})),
        line("müll/1", json!({ "question": "Is it loud?" })),
        line(
            "müll/2",
            json!({ "tasks": [{ "kind": "caption" }, { "kind": "question", "question": "Why?" }] }),
        ),
    ];
    world.upload("list.jsonl", lines.concat().into());
    let _worker = world.worker("worker");
    world
        .submit(&[world.job("listed", json!({ "input": { "manifest": format!("{videos}/list.jsonl") } }))])
        .exits(0);
    world.check_whole("listed", "succeeded", 3, 0);
    let results = world.result_lines("listed/results.jsonl");
    let asked = |report: &Value| {
        let questions = report["answers"].as_array().unwrap().iter().map(|answer| answer["question"].clone());
        (report["custom_id"].clone(), questions.collect::<Vec<_>>())
    };
    assert_eq!(
        results.iter().map(asked).collect::<Vec<_>>(),
        [
            (json!("plain"), vec![Value::Null]),
            (json!("müll/1"), vec![json!("Is it loud?")]),
            (json!("müll/2"), vec![Value::Null, json!("Why?")]),
        ]
    );
}
