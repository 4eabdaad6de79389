//! Contract of items: claims, lost messages, pages.

use super::*;

pub(super) async fn only_one_of_many_item_claims_succeeds(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 1).await;
    for (round, now) in [(1, T0), (2, T0 + 1_001)] {
        let claims = race(32, |n| {
            let (ledger, id) = (ledger.clone(), id.clone());
            async move {
                ledger.claim_item(&id, &item_id(0), &format!("worker-{n}"), None, now, LEASE).await.unwrap()
            }
        })
        .await;
        let won: Vec<_> = claims.iter().filter(|claim| matches!(claim, ClaimOutcome::Claimed(_))).collect();
        assert_eq!(won.len(), 1);
        assert!(matches!(won[0], ClaimOutcome::Claimed(claim) if claim.attempt == round));
        let held = claims.iter().filter(|claim| **claim == ClaimOutcome::Leased).count();
        assert_eq!(held, 31);
    }
}

pub(super) async fn stale_claim_changes_nothing(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 2).await;
    // One item is claimed by another worker, the other is only requeued by a sweep.
    let old = [claim_item(&ledger, &id, 0, T0).await, claim_item(&ledger, &id, 1, T0).await];
    let now = T0 + 1_001;
    let new = claim_item(&ledger, &id, 0, now).await;
    let swept = ledger.expired_items(now, 10).await.unwrap();
    let trace = TraceContext::default();
    let expected = PendingMessage { job: id.clone(), item: item_id(1), queue: Lane::Urgent.into(), trace };
    assert_eq!(swept, [expected]);
    for old in &old {
        assert!(!ledger.renew_item_lease(old, None, now, LEASE).await.unwrap());
        assert!(!ledger.end_item(old, &ItemEnd::Succeeded, now).await.unwrap());
        assert!(
            !ledger
                .stop_item(old, &retry(&Failure::new("x", "y"), RetryCost::Attempt), now, now)
                .await
                .unwrap()
        );
        assert!(!ledger.stop_item(old, &cancelled(), now, now).await.unwrap());
    }
    assert!(ledger.end_item(&new, &ItemEnd::Succeeded, now).await.unwrap());
    let after = claim_item(&ledger, &id, 1, now).await;
    for claim in [&new, &after] {
        assert_eq!(
            (claim.attempt, claim.worker_losses, claim.attempts()),
            (2, 1, 1),
            "a lost worker is no attempt"
        );
    }
}

pub(super) async fn heartbeats_keep_an_item(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 1).await;
    let claim = claim_item(&ledger, &id, 0, T0).await;
    for beat in 1..5 {
        assert!(ledger.renew_item_lease(&claim, None, T0 + beat * 900, LEASE).await.unwrap());
        assert_eq!(ledger.expired_items(T0 + beat * 900 + 1_000, 10).await.unwrap(), []);
    }
    // Late, but no other worker has claimed it.
    assert!(ledger.renew_item_lease(&claim, None, T0 + 60_000, LEASE).await.unwrap());
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 70_000).await.unwrap());
}

pub(super) async fn claim_outcome_gives_the_reason(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 1).await;
    let ask = |n: usize, now: Millis| {
        let (ledger, id) = (ledger.clone(), id.clone());
        async move { ledger.claim_item(&id, &item_id(n), "other", None, now, LEASE).await.unwrap() }
    };
    assert_eq!(ask(9, T0).await, ClaimOutcome::NotFound);
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!(ask(0, T0 + 1).await, ClaimOutcome::Leased);
    let reason = Failure::new("store_unavailable", "the store does not answer");
    assert!(ledger.stop_item(&claim, &retry(&reason, RetryCost::Attempt), T0 + 50, T0).await.unwrap());
    assert_eq!(ask(0, T0 + 49).await, ClaimOutcome::NotDue { wait: Duration::from_millis(1) });
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].failure, Some(reason));
    let claim = claim_item(&ledger, &id, 0, T0 + 50).await;
    assert_eq!(claim.attempts(), 2);
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 60).await.unwrap());
    assert_eq!(ask(0, T0 + 9_999).await, ClaimOutcome::Finished { reason: None });
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].failure, None, "a success clears the failure");
}

pub(super) async fn releases_and_losses_are_no_attempts(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 1).await;
    for _ in 0..3 {
        let claim = claim_item(&ledger, &id, 0, T0).await;
        assert!(ledger.stop_item(&claim, &cancelled(), T0, T0).await.unwrap());
        assert!(!ledger.stop_item(&claim, &cancelled(), T0, T0).await.unwrap());
    }
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!((claim.attempt, claim.released, claim.attempts()), (4, 3, 1));
    let reason = Failure::new("x", "y");
    assert!(ledger.stop_item(&claim, &retry(&reason, RetryCost::Free), T0, T0).await.unwrap());
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!((claim.released, claim.worker_losses, claim.attempts()), (4, 0, 1));
    assert!(ledger.stop_item(&claim, &retry(&reason, RetryCost::WorkerLoss), T0, T0).await.unwrap());
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!((claim.released, claim.worker_losses, claim.attempts()), (4, 1, 1));
    assert!(ledger.stop_item(&claim, &retry(&reason, RetryCost::Attempt), T0, T0).await.unwrap());
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert_eq!((claim.released, claim.worker_losses, claim.attempts()), (4, 1, 2));
}

pub(super) async fn ending_an_item_twice_succeeds(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 1).await;
    let claim = claim_item(&ledger, &id, 0, T0).await;
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0 + 2).await.unwrap());
    assert!(!ledger.end_item(&claim, &ItemEnd::Failed(Failure::new("x", "y")), T0 + 2).await.unwrap());
    assert_eq!(ledger.items(&id, None, 1).await.unwrap()[0].ended_at, Some(T0 + 1));
}

/// Runs one sweep with at most six rows of each kind; returns the ids that need a message.
async fn sweep(ledger: Ledger) -> Vec<String> {
    let (now, min_age) = (T0 + 1_001, Duration::from_millis(500));
    let expired = ledger.expired_items(now, 6).await.unwrap();
    let unannounced = ledger.unannounced_items(None, now, Some(min_age), 6).await.unwrap();
    let jobs = ledger.due_jobs(now, min_age, 6).await.unwrap();
    let items = expired.into_iter().chain(unannounced).map(|pending| pending.item.to_string());
    items.chain(jobs.into_iter().map(|pending| pending.id.to_string())).collect()
}

pub(super) async fn lost_messages_are_returned_once(database: TestDatabase) {
    let ledger = database.ready().await;
    let job = expanded_job(&ledger, 40).await;
    for n in 0..20 {
        claim_item(&ledger, &job, n, T0).await;
    }
    let unannounced_job = accepted(&ledger).await;
    let other = database.open().await;
    assert_eq!(
        ledger.unannounced_items(None, T0 + 500, Some(Duration::from_millis(500)), 100).await.unwrap(),
        []
    );
    let mut announced =
        race(8, |n| sweep(if n % 2 == 0 { ledger.clone() } else { other.clone() })).await.concat();
    // Two sweepers on the same rows may both return fewer; the next round returns the rest.
    loop {
        let more = sweep(ledger.clone()).await;
        if more.is_empty() {
            break;
        }
        announced.extend(more);
    }
    let mut expected: Vec<_> =
        (0..40).map(|n| item_id(n).to_string()).chain([unannounced_job.to_string()]).collect();
    expected.sort();
    announced.sort();
    assert_eq!(announced, expected, "each exactly once");
}

pub(super) async fn pages_list_every_row_once(database: TestDatabase) {
    let ledger = database.ready().await;
    let job = expanded_job(&ledger, 23).await;
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(|item: &ItemRecord| (item.position, &item.id));
        let page = ledger.items(&job, after, 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed.iter().map(|item| item.position).collect::<Vec<_>>(), (0..23).collect::<Vec<_>>());

    // Several jobs in the same millisecond.
    for n in 0..11 {
        ledger
            .accept(&job_named(&format!("job-{n:02}"), &format!("key-{n}"), "r"), T0 + n / 4)
            .await
            .unwrap();
    }
    let mut listed: Vec<JobRecord> = Vec::new();
    loop {
        let after = listed.last().map(|job| (job.accepted_at(), &job.id));
        let page = ledger.jobs(after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed.len(), 12);
    assert!(
        listed
            .windows(2)
            .all(|pair| (pair[0].accepted_at(), &pair[0].id) > (pair[1].accepted_at(), &pair[1].id))
    );
}

pub(super) async fn counts_items_of_several_jobs(database: TestDatabase) {
    let ledger = database.ready().await;
    let jobs = [expanded_job(&ledger, 3).await, expanded_job(&ledger, 5).await, accepted(&ledger).await];
    claim_item(&ledger, &jobs[0], 1, T0).await;
    let done = claim_item(&ledger, &jobs[1], 0, T0).await;
    assert!(ledger.end_item(&done, &ItemEnd::Succeeded, T0).await.unwrap());
    let found = ledger.counts_of(&jobs).await.unwrap();
    let first = Counts { total: 3, queued: 2, running: 1, ..Counts::default() };
    let second = Counts { total: 5, queued: 4, succeeded: 1, ..Counts::default() };
    assert_eq!((found.len(), found[&jobs[0]], found[&jobs[1]]), (2, first, second));
    assert_eq!(ledger.counts(&jobs[1]).await.unwrap(), second);
    assert_eq!(ledger.counts(&jobs[2]).await.unwrap(), Counts::default());
    assert!(ledger.counts_of(&[]).await.unwrap().is_empty());
}

pub(super) async fn item_equals_its_row_in_the_page(database: TestDatabase) {
    let ledger = database.ready().await;
    let job = expanded_job(&ledger, 4).await;
    let other = expanded_job(&ledger, 9).await;
    for item in ledger.items(&job, None, 9).await.unwrap() {
        assert_eq!(ledger.item(&job, &item.id).await.unwrap(), Some(item));
    }
    assert_eq!(ledger.item(&job, &item_id(8)).await.unwrap(), None);
    assert_eq!(ledger.item(&other, &item_id(8)).await.unwrap().unwrap().position, 8);
}

pub(super) async fn processes_share_a_ledger(database: TestDatabase) {
    let first = database.ready().await;
    let job = expanded_job(&first, 120).await;
    let ledgers = join_all((0..6).map(|_| database.open())).await;
    let ended = race(12, |n| {
        let (ledger, job) = (ledgers[n % 6].clone(), job.clone());
        async move {
            let mut ended = 0;
            for item in 0..120 {
                let claimed =
                    ledger.claim_item(&job, &item_id(item), "worker", None, T0, LEASE).await.unwrap();
                if let ClaimOutcome::Claimed(claim) = claimed {
                    assert!(ledger.renew_item_lease(&claim, None, T0, LEASE).await.unwrap());
                    assert!(ledger.end_item(&claim, &ItemEnd::Succeeded, T0).await.unwrap());
                    ended += 1;
                }
            }
            ended
        }
    })
    .await;
    assert_eq!(ended.iter().sum::<usize>(), 120);
    assert_eq!(first.counts(&job).await.unwrap().succeeded, 120);
}

pub(super) async fn pending_messages_carry_the_trace_of_their_job(database: TestDatabase) {
    let ledger = database.ready().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traces = [TraceContext::parse(Some(parent), Some("vendor=said")), TraceContext::default()];
    for (name, trace) in ["traced", "untraced"].into_iter().zip(&traces) {
        let job = NewJob { trace: trace.clone(), ..job_named(name, name, name) };
        assert!(matches!(ledger.accept(&job, T0).await.unwrap(), Accepted::New(new) if new.trace == *trace));
        let claim = claim_job(&ledger, &job.id, T0).await;
        assert_eq!(claim.record.trace, *trace);
        assert!(ledger.add_items(&claim, &clips(0..2), 0, T0).await.unwrap());
        claim_item(&ledger, &job.id, 0, T0).await;
    }
    let (now, min_age) = (T0 + 1_001, Duration::from_millis(500));
    let of = |job: &str| traces[usize::from(job == "untraced")].clone();
    let jobs = ledger.due_jobs(now, min_age, 6).await.unwrap();
    assert_eq!(jobs.len(), 2);
    for pending in jobs {
        assert_eq!(pending.trace, of(pending.id.as_str()));
    }
    let unannounced = ledger.unannounced_items(None, now, Some(min_age), 6).await.unwrap();
    let expired = ledger.expired_items(now, 6).await.unwrap();
    assert_eq!((unannounced.len(), expired.len()), (2, 2));
    for pending in unannounced.into_iter().chain(expired) {
        assert_eq!(pending.trace, of(pending.job.as_str()));
    }
}
