//! Tests of items without a report: lost before the results are gathered, or never written.

use super::*;

/// An item whose report is lost before the end fails, and the end of the job follows.
#[tokio::test]
async fn gathering_may_fail_items() {
    for (items, state) in
        [(&["good-1", "lost-1"][..], JobState::PartiallySucceeded), (&["lost-1", "lost-2"], JobState::Failed)]
    {
        let fixture = Fixture::new(&[items]).await;
        let mut events = fixture.queue.subscribe();
        fixture.send("job", b"").await;
        let (record, ends) = fixture.ended("job").await;
        assert_eq!(record.state, state);
        for (name, end) in ends {
            let lost = (ItemState::Failed, Some("lost".to_owned()));
            assert_eq!(end, if name.starts_with("lost") { lost } else { (ItemState::Succeeded, None) });
        }
        assert_eq!(events.try_recv().unwrap().topic, format!("job.{}", state.as_str()));
    }
}

/// An item whose report can never be written fails, is not repeated, and leaves a dead letter.
#[tokio::test]
async fn a_permanent_failure_to_report_ends_the_item() {
    let fixture = Fixture::new(&[&["foreign-1", "good-1"]]).await;
    fixture.send("job", b"").await;
    let (record, items) = fixture.ended("job").await;
    assert_eq!(record.state, JobState::PartiallySucceeded);
    assert_eq!(items["foreign-1"], (ItemState::Failed, Some("foreign".to_owned())));
    assert_eq!(fixture.service.runs.lock().unwrap()["foreign-1"], 1);
    let dead: Vec<_> = fixture.queue.peek_dead().into_iter().map(|(_, reason)| reason.code).collect();
    assert_eq!(dead, ["foreign"]);
}
