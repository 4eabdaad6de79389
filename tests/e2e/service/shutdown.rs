//! On SIGTERM a worker ends with exit status 0; no item is lost or done twice.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::world::{CLIPS, World, wait};

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn items_in_flight_are_finished_or_released() {
    for (grace, id) in [("30s", "finished"), ("1ms", "released")] {
        let mut world = World::new("shutdown");
        world.set("FLAMINGO__WORKER__GRACE", grace);
        world.upload_clips(&CLIPS);
        let mut worker = world.worker("first");
        world.submit(&[world.job(id, json!({ "sampling": { "fps": { "fps": 4.0 } } }))]).exits(0);
        worker.wait_for_log("step=Claimed");
        worker.signal("TERM");
        assert_eq!(worker.wait(), Some(0), "{}", worker.log());
        let shown = world.show(id);
        let done = shown["counts"]["succeeded"].as_u64().unwrap();
        assert!(done < CLIPS.len() as u64, "no item was left for the second worker");
        assert_eq!(shown["counts"]["running"], 0, "{shown:#}");

        let _second = world.worker("second");
        world.check_whole(id, "succeeded", CLIPS.len(), 0);
        let shown = world.show(id);
        let attempts: Vec<_> =
            shown["items"].as_array().unwrap().iter().map(|item| &item["attempts"]).collect();
        assert!(attempts.iter().all(|n| **n == 1), "an item was attempted twice: {attempts:?}");
    }
}

/// The worker is live from its start, and ready while it can work.
#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn reports_health_and_metrics() {
    let mut world = World::new("health");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("FLAMINGO__STATUS__ADDRESS", &format!("127.0.0.1:{port}"));
    world.upload_clips(&CLIPS[..2]);
    world.upload("x.mp4", b"no video".to_vec());
    let worker = world.worker("worker");
    assert!(get(port, "/live").starts_with("HTTP/1.1 200"));
    wait("readiness", || get(port, "/ready").starts_with("HTTP/1.1 200").then_some(()));
    world.submit(&[world.job("counted", json!({}))]).exits(0);
    world.check_whole("counted", "partially_succeeded", 2, 1);
    let metrics = get(port, "/metrics");
    for line in [
        "flamingo_items_total{outcome=\"succeeded\",code=\"\"} 2",
        "flamingo_items_total{outcome=\"failed\",code=\"unknown_container\"} 1",
        "flamingo_jobs_total{state=\"partially_succeeded\"} 1",
        "flamingo_items_in_flight 0",
        "flamingo_messages_waiting{lane=\"items\"} 0",
        "flamingo_outbox_pending 0",
        "flamingo_reserved_bytes{resource=\"disk\",of=\"disk\"} 0",
        "flamingo_reserved_bytes{resource=\"memory\",of=\"memory\"} 0",
        "flamingo_limit_bytes{resource=\"memory\",of=\"memory\"} 2147483648",
        "flamingo_reserved_bytes{resource=\"kv\",of=\"kv\"} 0",
        "flamingo_limit_bytes{resource=\"kv\",of=\"kv\"} 1073741824",
        "flamingo_engine_waiting{stage=\"generate\",of=\"write\"} 0",
        "flamingo_engine_rows 0",
        "flamingo_decoder_sandbox{mechanism=\"system_calls\",wall=\"system_calls\"} 1",
        "flamingo_stage_seconds_count{stage=\"answer\"} 3",
        "flamingo_frames_total 9",
        "flamingo_build{version=\"0.1.0\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
    drop(worker);

    // Without a database it is live, not ready, and names the missing part.
    world.set("FLAMINGO__DATABASE__URL", "postgres://user@127.0.0.1:1/none");
    let _waiting = world.spawn("waiting", world.command().arg("work"));
    wait("a listener", || TcpStream::connect(("127.0.0.1", port)).ok());
    assert!(get(port, "/live").starts_with("HTTP/1.1 200"));
    wait("the missing database", || {
        let ready = get(port, "/ready");
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        ready.contains("database: ").then_some(())
    });
}

/// Sends a request and returns head and body of the response.
pub(super) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
