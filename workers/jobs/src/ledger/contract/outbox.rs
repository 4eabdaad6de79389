//! Contract of the outbox: no event is lost, one relay publishes it at a time, and events of a job keep their order.

use super::*;

async fn claim_events(ledger: &Ledger, now: Millis) -> Option<OutboxEvent> {
    ledger.claim_events(now, LEASE).await.unwrap()
}

/// Claims the next event and returns its topic.
async fn next(ledger: &Ledger, now: Millis) -> Option<String> {
    claim_events(ledger, now).await.map(|pending| pending.event.topic)
}

pub(super) async fn job_end_and_event_are_atomic(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 0).await;
    let old = claim_job(&ledger, &id, T0).await;
    assert!(ledger.begin_finalizing(&old, T0).await.unwrap().is_some());
    let new = claim_job(&ledger, &id, T0 + 1_001).await;
    assert!(!ledger.finish(&old, &JobEnd::Succeeded, &end_event(), T0 + 1_002).await.unwrap(), "stale claim");
    assert_eq!(ledger.outbox_pending().await.unwrap(), 0, "the job has not ended");
    for _ in 0..2 {
        assert!(ledger.finish(&new, &JobEnd::Succeeded, &end_event(), T0 + 1_003).await.unwrap());
        assert_eq!(ledger.outbox_pending().await.unwrap(), 1, "a repeated end inserts one event");
    }
    let pending = claim_events(&ledger, T0 + 1_003).await.unwrap();
    assert_eq!((&pending.job, &pending.event), (&id, &end_event()));
    ledger.mark_published(&pending).await.unwrap();
    assert_eq!(ledger.outbox_pending().await.unwrap(), 0);
    ledger.mark_published(&pending).await.unwrap();
    assert!(ledger.insert_event(&JobId::generate(), &end_event(), T0).await.is_err(), "there is no such job");
}

pub(super) async fn claims_events_in_order(database: TestDatabase) {
    let ledger = database.ready().await;
    let (first, second) = (accepted(&ledger).await, accepted(&ledger).await);
    for (job, topic, at) in [(&first, "a", T0), (&first, "b", T0 + 1), (&second, "c", T0 + 2)] {
        ledger.insert_event(job, &event(topic), at).await.unwrap();
    }
    let a = claim_events(&ledger, T0 + 10).await.unwrap();
    assert_eq!((a.event.topic.as_str(), &a.job), ("a", &first));
    assert_eq!(next(&ledger, T0 + 10).await.as_deref(), Some("c"), "events of another job need not wait");
    assert_eq!(next(&ledger, T0 + 10).await, None, "b comes after a, which a relay has claimed");

    // The lease of a expires: another relay claims it.
    assert_eq!(next(&ledger, T0 + 1_010).await, None);
    let again = claim_events(&ledger, T0 + 1_011).await.unwrap();
    assert_eq!(again.event.topic, "a");
    ledger.postpone_events(&a, T0).await.unwrap();
    assert_eq!(next(&ledger, T0 + 1_011).await.as_deref(), Some("c"), "a stale claim cannot postpone a");
    ledger.postpone_events(&again, T0 + 5_000).await.unwrap();
    assert_eq!(
        next(&ledger, T0 + 5_000).await.as_deref(),
        Some("c"),
        "a postponed event delays only later events of its job"
    );
    assert_eq!(next(&ledger, T0 + 5_001).await.as_deref(), Some("a"));
    ledger.mark_published(&again).await.unwrap();
    assert_eq!(next(&ledger, T0 + 5_001).await.as_deref(), Some("b"));

    // Numbers are unique: marking an old event published deletes no later one.
    let waiting = ledger.outbox_pending().await.unwrap();
    ledger.insert_event(&first, &event("d"), T0 + 6_000).await.unwrap();
    ledger.mark_published(&a).await.unwrap();
    assert_eq!(ledger.outbox_pending().await.unwrap(), waiting + 1);
}

pub(super) async fn only_one_of_many_relays_claims_an_event(database: TestDatabase) {
    let ledger = database.ready().await;
    let jobs = join_all((0..5).map(|_| accepted(&ledger))).await;
    // Concurrent inserts get distinct numbers, too.
    race(5 * 4, |n| {
        let (ledger, job) = (ledger.clone(), jobs[n % 5].clone());
        async move { ledger.insert_event(&job, &end_event(), T0).await.unwrap() }
    })
    .await;
    let sent = race(4, |_| {
        let ledger = ledger.clone();
        async move {
            let mut sent = Vec::new();
            // `None` may also mean that another relay was faster.
            while ledger.outbox_pending().await.unwrap() > 0 {
                if let Some(pending) = claim_events(&ledger, T0).await {
                    sent.push((pending.job.clone(), pending.number));
                    ledger.mark_published(&pending).await.unwrap();
                }
            }
            sent
        }
    })
    .await;
    let mut sent: Vec<_> = sent.into_iter().flatten().collect();
    sent.sort();
    let mut expected: Vec<_> =
        jobs.iter().flat_map(|job| (1..=4).map(|number| (job.clone(), number))).collect();
    expected.sort();
    assert_eq!(sent, expected);
}

/// Untrusted input in events does no harm to the ledger.
pub(super) async fn untrusted_event_texts_round_trip(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let mut strange = event("job.refused");
    strange.message.id = "a\0b'; DROP TABLE jobs; --".to_owned();
    strange.message.reply_to = Some("\u{0}".to_owned());
    strange.message.correlation_id = Some("ä".repeat(300));
    ledger.insert_event(&id, &strange, T0).await.unwrap();
    assert_eq!(claim_events(&ledger, T0).await.unwrap().event, strange);
}
