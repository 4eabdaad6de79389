//! News: none is lost, each is sent by one at a time, those of a job in their order.

use super::*;

async fn claim_news(ledger: &Ledger, now: Millis) -> Option<News> {
    ledger.claim_news(now, LEASE).await.unwrap()
}

/// The topic of the news that are to be sent next, which are taken.
async fn next(ledger: &Ledger, now: Millis) -> Option<String> {
    claim_news(ledger, now).await.map(|news| news.event.topic)
}

pub(super) async fn the_end_and_its_news_are_one(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 0).await;
    let old = claim_job(&ledger, &id, T0).await;
    assert!(ledger.finalize(&old, T0).await.unwrap().is_some());
    let new = claim_job(&ledger, &id, T0 + 1_001).await;
    assert!(!ledger.finish(&old, &JobEnd::Succeeded, &news(), T0 + 1_002).await.unwrap(), "fenced off");
    assert_eq!(ledger.news_waiting().await.unwrap(), 0, "it has not ended");
    for _ in 0..2 {
        assert!(ledger.finish(&new, &JobEnd::Succeeded, &news(), T0 + 1_003).await.unwrap());
        assert_eq!(ledger.news_waiting().await.unwrap(), 1, "said again, it is told once");
    }
    let told = claim_news(&ledger, T0 + 1_003).await.unwrap();
    assert_eq!((&told.job, &told.event), (&id, &news()));
    ledger.told(&told).await.unwrap();
    assert_eq!(ledger.news_waiting().await.unwrap(), 0);
    ledger.told(&told).await.unwrap();
    assert!(ledger.enter_news(&JobId::mint(), &news(), T0).await.is_err(), "news of no job");
}

pub(super) async fn news_are_taken_in_order(place: Place) {
    let ledger = place.ready().await;
    let (first, second) = (accepted(&ledger).await, accepted(&ledger).await);
    for (job, topic, at) in [(&first, "a", T0), (&first, "b", T0 + 1), (&second, "c", T0 + 2)] {
        ledger.enter_news(job, &event(topic), at).await.unwrap();
    }
    let a = claim_news(&ledger, T0 + 10).await.unwrap();
    assert_eq!((a.event.topic.as_str(), &a.job), ("a", &first));
    assert_eq!(next(&ledger, T0 + 10).await.as_deref(), Some("c"), "the news of another job need not wait");
    assert_eq!(next(&ledger, T0 + 10).await, None, "b comes after a, which somebody has");

    // Whoever had a is silent for longer than his lease: it is sent again, by another.
    assert_eq!(next(&ledger, T0 + 1_010).await, None);
    let again = claim_news(&ledger, T0 + 1_011).await.unwrap();
    assert_eq!(again.event.topic, "a");
    ledger.postpone_news(&a, T0).await.unwrap();
    assert_eq!(
        next(&ledger, T0 + 1_011).await.as_deref(),
        Some("c"),
        "a is not the old holder's to postpone"
    );
    ledger.postpone_news(&again, T0 + 5_000).await.unwrap();
    assert_eq!(
        next(&ledger, T0 + 5_000).await.as_deref(),
        Some("c"),
        "postponed, a keeps nobody waiting but b"
    );
    assert_eq!(next(&ledger, T0 + 5_001).await.as_deref(), Some("a"));
    ledger.told(&again).await.unwrap();
    assert_eq!(next(&ledger, T0 + 5_001).await.as_deref(), Some("b"));

    // Numbers come once: what was sent late crosses out nothing that came after it.
    let waiting = ledger.news_waiting().await.unwrap();
    ledger.enter_news(&first, &event("d"), T0 + 6_000).await.unwrap();
    ledger.told(&a).await.unwrap();
    assert_eq!(ledger.news_waiting().await.unwrap(), waiting + 1);
}

pub(super) async fn of_many_relays_one_sends(place: Place) {
    let ledger = place.ready().await;
    let jobs = join_all((0..5).map(|_| accepted(&ledger))).await;
    // Entered side by side too: each has a number of its own.
    race(5 * 4, |n| {
        let (ledger, job) = (ledger.clone(), jobs[n % 5].clone());
        async move { ledger.enter_news(&job, &news(), T0).await.unwrap() }
    })
    .await;
    let sent = race(4, |_| {
        let ledger = ledger.clone();
        async move {
            let mut sent = Vec::new();
            // None also says that another was faster.
            while ledger.news_waiting().await.unwrap() > 0 {
                if let Some(news) = claim_news(&ledger, T0).await {
                    sent.push((news.job.clone(), news.number));
                    ledger.told(&news).await.unwrap();
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

/// What strangers write into them does no harm to the ledger.
pub(super) async fn news_are_kept_as_they_are(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let mut strange = event("job.refused");
    strange.message.id = "a\0b'; DROP TABLE jobs; --".to_owned();
    strange.message.reply_to = Some("\u{0}".to_owned());
    strange.message.correlation_id = Some("ä".repeat(300));
    ledger.enter_news(&id, &strange, T0).await.unwrap();
    assert_eq!(claim_news(&ledger, T0).await.unwrap().event, strange);
}
