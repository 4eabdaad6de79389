//! A video that kills its decoder fails alone.

use serde_json::json;

use super::world::{World, wait};

/// Returns an image that needs more than 256 MiB to decode but has an allowed size.
fn large_image() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(7000, 4700).write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

#[test]
#[ignore = "needs RabbitMQ, Postgres and S3"]
fn a_poison_video_fails_and_the_others_are_answered() {
    let mut world = World::new("poison");
    world.set("FLAMINGO__DECODER__MEMORY", "268435456");
    world.upload_clips(&[("a.mp4", "short"), ("c.webm", "vp8")]);
    world.upload("b.png", large_image());
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
    wait("the dead letter", || {
        let letters = world.flamingo(&["jobs", "dead", "list", "--json"]).exits(0).reports();
        letters
            .iter()
            .any(|l| l["message"] == "poisoned/b.png" && l["error"]["code"] == "decoder_crashed")
            .then_some(())
    });
    // The same worker continues.
    let one = json!({ "input": { "video": format!("{}/a.mp4", world.videos()) } });
    world.submit(&[world.job("next", one)]).exits(0);
    world.check_whole("next", "succeeded", 1, 0);
    worker.signal("TERM");
    assert_eq!(worker.wait(), Some(0));

    // With enough memory, a retry succeeds.
    world.set("FLAMINGO__DECODER__MEMORY", "4294967296");
    let _worker = world.worker("more-memory");
    world.flamingo(&["jobs", "retry", "poisoned"]).exits(0);
    world.check_whole("poisoned.retry", "succeeded", 1, 0);
}
