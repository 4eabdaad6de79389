//! A video that kills its decoder spoils nothing but itself.

use serde_json::json;

use super::world::{World, wait};

/// More than a decoder of 256 MiB holds, less than the largest frame that is allowed.
fn too_much() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(7000, 4700).write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn it_is_given_up_and_the_others_are_answered() {
    let mut world = World::new("poison");
    world.set("FLAMINGO__DECODER__MEMORY", "268435456");
    world.upload_clips(&[("a.mp4", "short"), ("c.webm", "vp8")]);
    world.upload("b.png", too_much());
    let mut worker = world.worker("worker");
    world.submit(&[world.job("poisoned", json!({}))]).exits(0);
    world.check_whole("poisoned", "partially_succeeded", 2, 1);
    let items = world.show("poisoned")["items"].clone();
    let poison = items.as_array().unwrap().iter().find(|item| item["item_id"] == "b.png").unwrap();
    assert_eq!(
        (&poison["attempts"], &poison["error"]["code"]),
        (&json!(3), &json!("decoder_crashed")),
        "{items:#}"
    );
    wait("its dead letter", || {
        let letters = world.flamingo(&["jobs", "dead", "list", "--json"]).exits(0).reports();
        letters
            .iter()
            .any(|l| l["message"] == "poisoned/b.png" && l["error"]["code"] == "decoder_crashed")
            .then_some(())
    });
    // The same worker goes on.
    let one = json!({ "input": { "video": format!("{}/a.mp4", world.videos()) } });
    world.submit(&[world.job("next", one)]).exits(0);
    world.check_whole("next", "succeeded", 1, 0);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));

    // Mended, it is done again.
    world.set("FLAMINGO__DECODER__MEMORY", "4294967296");
    let _worker = world.worker("mended");
    world.flamingo(&["jobs", "retry", "poisoned"]).exits(0);
    world.check_whole("poisoned.retry", "succeeded", 1, 0);
}
