//! Tests of item messages and item contents of other versions.

use super::*;

async fn send_item(fixture: &Fixture, body: &'static str) {
    let message = Message::new("job/clip".into(), "any", body);
    assert_eq!(fixture.queue.send(&Lane::Items.into(), &message).await.unwrap(), Sent::Confirmed);
}

/// The ledger has no such item, which only an accepted message can show.
#[tokio::test]
async fn accepts_item_messages_of_the_previous_version() {
    let fixture = Fixture::new(&[]).await;
    send_item(
        &fixture,
        r#"{"schema": "item/1", "job_id": "job", "item_id": "clip", "video": "s3://b/clip"}"#,
    )
    .await;
    let working = tokio::spawn(fixture.worker().run());
    while fixture.queue.peek_dead().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.stop.drain();
    working.await.unwrap().unwrap();
    let dead: Vec<_> = fixture.queue.peek_dead().into_iter().map(|(_, reason)| reason.code).collect();
    assert_eq!(dead, ["unknown_item"]);
}

#[tokio::test]
async fn requeues_item_messages_of_a_newer_version() {
    let fixture = Fixture::new(&[&["good-1"]]).await;
    let mut events = fixture.queue.subscribe();
    send_item(&fixture, r#"{"schema": "item/3", "job": "job", "items": ["good-1"]}"#).await;
    fixture.send("job", b"").await;
    let (record, _) = fixture.ended("job").await;
    let item = fixture.ledger.items(&record.id, None, 10).await.unwrap().remove(0);
    assert_eq!((item.state, item.attempt), (ItemState::Succeeded, 1), "its own message counts alone");
    assert!(fixture.queue.peek_dead().is_empty());
    assert_eq!(events.try_recv().unwrap().topic, "job.succeeded");
    assert!(events.try_recv().is_err(), "a newer message is not refused");
    let mut consumer = fixture.queue.consumer(&Lane::Items.into()).await;
    let again = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.unwrap();
    assert!(again.message.body.starts_with(br#"{"schema": "item/3""#));
}

#[tokio::test]
async fn item_with_unreadable_content_fails() {
    let fixture = Fixture::new(&[&["unreadable-1", "good-1"]]).await;
    fixture.send("job", b"").await;
    let (record, items) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    assert_eq!(items["unreadable-1"], (ItemState::Failed, Some("unreadable".into())));
    assert!(fixture.service.reports.lock().unwrap().get("unreadable-1").is_none());
}
