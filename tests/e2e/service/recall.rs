//! A video that was looked at is remembered: a later question pays for the language model only, and gets the same answer.

use serde_json::{Value, json};

use super::world::{World, same_answers};

fn questions(texts: &[&str]) -> Value {
    let tasks: Vec<_> = texts.iter().map(|text| json!({ "kind": "question", "question": text })).collect();
    json!({ "tasks": tasks })
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_later_question_needs_no_video() {
    let mut world = World::new("recalled");
    world.set("FLAMINGO__CACHE__STORE", "true");
    world.upload_clips(&[("a.mp4", "short"), ("b.mp4", "faststart")]);
    let worker = world.worker("first");
    let ask = |job: &str, over: Value| {
        world.submit(&[world.job(job, over)]).exits(0);
        world.check_whole(job, "succeeded", 2, 0);
        ["a.mp4", "b.mp4"].map(|item| world.result_json(&format!("{job}/items/{item}.json")))
    };
    let looked = ask("looked", questions(&["What is this?"]));
    let recalled = ask("recalled", questions(&["How many are there?", "What is this?"]));
    for (looked, recalled) in looked.iter().zip(&recalled) {
        assert_eq!((looked.get("recalled"), &recalled["recalled"]), (None, &json!(true)));
        assert!(looked["timing"]["decode_s"].as_f64().unwrap() > 0.0);
        assert_eq!(recalled["timing"]["decode_s"], 0.0, "{recalled:#}");
        // The same answer to the same question, about the same frames.
        same_answers(&recalled["answers"][1], &looked["answers"][0]);
        assert_eq!((&recalled["videos"], &recalled["input"]), (&looked["videos"], &looked["input"]));
    }
    // Other frames were not seen before.
    let other = ask("other", json!({ "sampling": { "fps": { "fps": 2.0 } } }));
    assert!(other.iter().all(|report| report.get("recalled").is_none()));

    // Another worker finds them in the store.
    drop(worker);
    let _heir = world.worker("heir");
    let again = ask("again", questions(&["What is this?"]));
    for (looked, again) in looked.iter().zip(&again) {
        assert_eq!((&again["recalled"], &again["worker"]), (&json!(true), &json!("heir")));
        same_answers(&again["answers"], &looked["answers"]);
    }
}
