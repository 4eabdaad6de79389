//! Contract of the gathering of results.

use super::*;

pub(super) async fn only_the_finalizing_worker_fails_succeeded_items(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 3).await;
    let bad = Failure::new("bad", "it is bad");
    for (n, end) in [ItemEnd::Succeeded, ItemEnd::Failed(bad.clone()), ItemEnd::Succeeded].iter().enumerate()
    {
        let claim = claim_item(&ledger, &id, n, T0).await;
        assert!(ledger.end_item(&claim, end, T0 + 1).await.unwrap());
    }
    let gone = Failure::new("report_missing", "it is gone");
    let lost = [0, 1, 7].map(|n| (item_id(n), gone.clone()));
    let early = claim_job(&ledger, &id, T0 + 2).await;
    assert!(!ledger.fail_succeeded_items(&early, &lost).await.unwrap(), "the job is not finalizing");
    assert!(ledger.begin_finalizing(&early, T0 + 2).await.unwrap().is_some());
    let claim = claim_job(&ledger, &id, T0 + 2_000).await;
    assert!(!ledger.fail_succeeded_items(&early, &lost).await.unwrap(), "the claim is stale");
    let counts = ledger.counts(&id).await.unwrap();
    assert_eq!((counts.succeeded, counts.failed), (2, 1));

    for _ in 0..2 {
        assert!(ledger.fail_succeeded_items(&claim, &lost).await.unwrap());
        let counts = ledger.counts(&id).await.unwrap();
        assert_eq!((counts.total, counts.succeeded, counts.failed), (3, 1, 2));
        let items = ledger.items(&id, None, 10).await.unwrap();
        let failures: Vec<_> = items.iter().map(|item| item.failure.clone()).collect();
        assert_eq!(failures, [Some(gone.clone()), Some(bad.clone()), None], "an earlier failure stays");
        assert!(items.iter().all(|item| item.ended_at == Some(T0 + 1)));
    }
    let unfinished = ledger.unfinished_items(&id, None, 10).await.unwrap();
    assert_eq!(unfinished.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [0, 1]);
    assert!(ledger.finish(&claim, &JobEnd::PartiallySucceeded, &end_event(), T0 + 2_001).await.unwrap());
    assert!(!ledger.fail_succeeded_items(&claim, &lost).await.unwrap(), "the job has ended");
}

pub(super) async fn pages_have_the_contents_of_items(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 5).await;
    let first = ledger.items_with_content(&id, None, 3).await.unwrap();
    let (last, _) = first.last().unwrap();
    let rest = ledger.items_with_content(&id, Some((last.position, &last.id)), 3).await.unwrap();
    let (rows, contents): (Vec<_>, Vec<_>) = [first, rest].concat().into_iter().unzip();
    assert_eq!(rows, ledger.items(&id, None, 10).await.unwrap());
    assert_eq!(contents, clips(0..5).into_iter().map(|item| item.message).collect::<Vec<_>>());
}
