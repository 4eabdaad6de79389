//! No password and no key is said, whatever goes wrong and however much is logged.

use serde_json::json;

use super::world::World;
use crate::program::run;

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn nothing_that_is_said_is_a_secret() {
    let mut world = World::loud("secrets");
    world.upload_clips(&[("a.mp4", "short")]);
    world.set("FLAMINGO__WORKER__PATIENCE", "1s");
    let secrets = secrets(&world);
    assert_eq!(secrets.len(), 3, "{secrets:?}");
    let worker = world.worker("worker");
    world.submit(&[world.job("job", json!({}))]).exits(0);
    world.check_whole("job", "succeeded", 1, 0);
    let mut said = vec![worker.log().to_owned(), world.flamingo(&["config"]).exits(0).out];
    drop(worker);

    // Wrong in many ways, each with the secret in it.
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
        said.push(ran.err);
    }
    // In the wrong place: the whole table, and a file that is not what it should be.
    let mut misplaced = world.command();
    said.push(run(misplaced.arg("config").env("FLAMINGO__QUEUE", &queue)).exits(2).err);
    let file = world.folder.join("bad.toml");
    for text in [format!("queue = \"{queue}\""), format!("[queue]\nurl = \"{queue}")] {
        std::fs::write(&file, text).unwrap();
        said.push(world.flamingo(&["config", "--config", file.to_str().unwrap()]).exits(2).err);
    }
    let bare = database.split_once("://").unwrap().1;
    said.push(world.flamingo(&["config", "--set", &format!("database.url={bare}")]).exits(0).out);
    for text in &said {
        for secret in &secrets {
            let at = text.find(secret.as_str());
            assert!(at.is_none(), "a secret is in: {}", &text[at.unwrap().saturating_sub(200)..at.unwrap()]);
        }
    }
}

/// The passwords of broker and database, and the key of the store.
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
