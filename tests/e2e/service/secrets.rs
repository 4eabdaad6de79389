//! No output and no log contains a password or a key, at any log level and after any error.

use serde_json::json;

use super::world::World;
use crate::program::run;

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn no_output_contains_a_secret() {
    let mut world = World::with_trace_log("secrets");
    world.upload_clips(&[("a.mp4", "short")]);
    world.set("FLAMINGO__WORKER__PATIENCE", "1s");
    let secrets = secrets(&world);
    assert_eq!(secrets.len(), 3, "{secrets:?}");
    let worker = world.worker("worker");
    world.submit(&[world.job("job", json!({}))]).exits(0);
    world.check_whole("job", "succeeded", 1, 0);
    let mut outputs = vec![worker.log().to_owned(), world.flamingo(&["config"]).exits(0).out];
    drop(worker);

    // Each of these settings is wrong and contains a secret.
    let url = |name: &str| world.env.iter().rfind(|(known, _)| known == name).unwrap().1.clone();
    let (queue, database) = (url("FLAMINGO__QUEUE__URL"), url("FLAMINGO__DATABASE__URL"));
    for (setting, value) in [
        ("queue.url", queue.replace(":hunter2", ":wrong-hunter2")),
        ("queue.url", queue.replace("amqp:", "http:")),
        ("queue.url", queue.replace("127.0.0.1:", "127.0.0.1:1")),
        ("queue.url", queue.replace("/%2f", "/nowhere")),
        ("database.url", database.replace(":hunter2", ":wrong-hunter2")),
        ("database.url", database.replace("postgres:", "mysql:")),
        ("database.url", database.replace("127.0.0.1:", "127.0.0.1:1")),
        ("database.url", format!("{database}?sslmode=nonsense")),
    ] {
        let ran = world.flamingo(&["work", "--set", &format!("{setting}={value}")]);
        assert!(ran.code == Some(1) || ran.code == Some(2), "{setting}: {:?}", ran.code);
        assert!(!ran.errors().is_empty(), "{setting}: {}", ran.err);
        outputs.push(ran.err);
    }
    // The secret is in the wrong place: in place of a table, and in an invalid file.
    let mut misplaced = world.command();
    outputs.push(run(misplaced.arg("config").env("FLAMINGO__QUEUE", &queue)).exits(2).err);
    let file = world.folder.join("bad.toml");
    for text in [format!("queue = \"{queue}\""), format!("[queue]\nurl = \"{queue}")] {
        std::fs::write(&file, text).unwrap();
        outputs.push(world.flamingo(&["config", "--config", file.to_str().unwrap()]).exits(2).err);
    }
    let bare = database.split_once("://").unwrap().1;
    outputs.push(world.flamingo(&["config", "--set", &format!("database.url={bare}")]).exits(0).out);
    for text in &outputs {
        for secret in &secrets {
            let at = text.find(secret.as_str());
            assert!(
                at.is_none(),
                "a secret follows: {}",
                &text[at.unwrap().saturating_sub(200)..at.unwrap()]
            );
        }
    }
}

/// Returns the passwords of broker and database and the key of the store.
fn secrets(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in &world.env {
        match name.as_str() {
            "AWS_SECRET_ACCESS_KEY" => found.push(value.clone()),
            "FLAMINGO_TEST_AMQP" | "FLAMINGO_TEST_POSTGRES" => {
                let (before, _) = value.rsplit_once('@').unwrap();
                found.push(before.rsplit_once(':').unwrap().1.to_owned());
            }
            _ => {}
        }
    }
    found
}
