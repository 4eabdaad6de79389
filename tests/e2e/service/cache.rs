//! Visual tokens are cached: a later question about the same video needs neither download nor encoder and has the same answer.

use serde_json::{Value, json};

use super::world::{World, same_answers};

fn questions(texts: &[&str]) -> Value {
    let tasks: Vec<_> = texts.iter().map(|text| json!({ "kind": "question", "question": text })).collect();
    json!({ "tasks": tasks })
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn cached_answers_equal_uncached_answers() {
    let mut world = World::new("cache");
    world.set("FLAMINGO__CACHE__STORE", "true");
    world.upload_clips(&[("a.mp4", "short"), ("b.mp4", "faststart")]);
    let worker = world.worker("first");
    let ask = |job: &str, over: Value| {
        world.submit(&[world.job(job, over)]).exits(0);
        world.check_whole(job, "succeeded", 2, 0);
        ["a.mp4", "b.mp4"].map(|item| world.result_json(&format!("{job}/items/{item}.json")))
    };
    let encoded = ask("encoded", questions(&["What is this?"]));
    let cached = ask("cached", questions(&["How many are there?", "What is this?"]));
    for (encoded, cached) in encoded.iter().zip(&cached) {
        assert_eq!((encoded.get("cache_hit"), &cached["cache_hit"]), (None, &json!(true)));
        assert!(encoded["timing"]["decode_s"].as_f64().unwrap() > 0.0);
        assert_eq!(cached["timing"]["decode_s"], 0.0, "{cached:#}");
        // Equal questions about equal frames have equal answers.
        same_answers(&cached["answers"][1], &encoded["answers"][0]);
        assert_eq!((&cached["videos"], &cached["input"]), (&encoded["videos"], &encoded["input"]));
    }
    // Another sampling is not in the cache.
    let other = ask("other", json!({ "sampling": { "fps": { "fps": 2.0 } } }));
    assert!(other.iter().all(|report| report.get("cache_hit").is_none()));

    // Another worker reads the store.
    drop(worker);
    let _second = world.worker("second");
    let again = ask("again", questions(&["What is this?"]));
    for (encoded, again) in encoded.iter().zip(&again) {
        assert_eq!((&again["cache_hit"], &again["worker"]), (&json!(true), &json!("second")));
        same_answers(&again["answers"], &encoded["answers"]);
    }
}
