//! Jobs: accepted once, held by one, ended once.

use super::*;

pub(super) async fn a_job_is_accepted_once(place: Place) {
    let ledger = place.ready().await;
    let first = job_named("first", "key-1", "request");
    let Accepted::New(record) = ledger.accept(&first, T0).await.unwrap() else { panic!("not new") };
    assert_eq!((record.state, record.accepted_at(), record.attempt), (JobState::Accepted, T0, 0));
    assert_eq!(record.message, first.message);
    ledger.accept(&job_named("second", "key-2", "another request"), T0).await.unwrap();

    for (id, key, request, expected) in [
        ("first", "key-1", "request", Ok("first")),
        ("first", "key-9", "request", Ok("first")),
        ("third", "key-1", "request", Ok("first")),
        ("first", "key-1", "wish", Err("first")),
        ("third", "key-1", "wish", Err("first")),
        ("first", "key-2", "request", Err("second")),
        ("first", "key-2", "another request", Err("first")),
    ] {
        let got = match ledger.accept(&job_named(id, key, request), T0 + 1).await.unwrap() {
            Accepted::New(record) => panic!("{} is new", record.id),
            Accepted::Same(record) => Ok(record.id),
            Accepted::Conflict { existing } => Err(existing),
        };
        let got = got.as_ref().map(JobId::as_str).map_err(JobId::as_str);
        assert_eq!(got, expected, "{id} {key} {request}");
    }
    assert_eq!(ledger.job(&JobId::mint()).await.unwrap(), None);
}

pub(super) async fn of_many_that_ask_one_is_new(place: Place) {
    let ledger = place.ready().await;
    let outcomes = race(16, |n| {
        let ledger = ledger.clone();
        async move { ledger.accept(&job_named(&format!("job-{n}"), "key", "request"), T0).await.unwrap() }
    })
    .await;
    let new = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::New(_))).count();
    let same = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Same(_))).count();
    assert_eq!((new, same), (1, 15));
}

pub(super) async fn a_job_goes_through_its_states(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let listing = claim_job(&ledger, &id, T0 + 1).await;
    assert_eq!((listing.attempt, listing.record.state), (1, JobState::Validating));
    assert!(ledger.finalize(&listing, T0 + 2).await.unwrap().is_none(), "not every item is known");
    assert!(ledger.add_items(&listing, &clips(0..2), 0, T0 + 2).await.unwrap());
    assert!(ledger.advance(&listing, "page 2", 2, T0 + 2, LEASE).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.cursor.as_deref(), record.next_position, record.total), (Some("page 2"), 2, None));
    assert!(ledger.expanded(&listing, T0 + 3).await.unwrap());
    assert!(!ledger.extend_job(&listing, T0 + 3, LEASE).await.unwrap(), "the claim has ended");

    let items = [claim_item(&ledger, &id, 0, T0 + 4).await, claim_item(&ledger, &id, 1, T0 + 5).await];
    assert_eq!((items[0].job_state, items[1].job_state), (JobState::Queued, JobState::Running));
    let failure = Failure::new("not_found", "clip-1 is not there");
    assert!(ledger.end_item(&items[0], &ItemEnd::Succeeded, T0 + 6).await.unwrap());
    assert!(ledger.any_open(&id).await.unwrap());
    let early = claim_job(&ledger, &id, T0 + 6).await;
    assert!(ledger.finalize(&early, T0 + 6).await.unwrap().is_none(), "an item is open");
    assert!(
        !ledger.finish(&early, &JobEnd::Succeeded, &news(), T0 + 6).await.unwrap(),
        "it is not finalizing"
    );
    assert!(ledger.release_job(&early, None).await.unwrap());
    assert!(ledger.end_item(&items[1], &ItemEnd::Failed(failure.clone()), T0 + 7).await.unwrap());
    assert!(!ledger.any_open(&id).await.unwrap());

    let gathering = claim_job(&ledger, &id, T0 + 8).await;
    let record = ledger.finalize(&gathering, T0 + 8).await.unwrap().unwrap();
    assert_eq!((record.state, record.total), (JobState::Finalizing, Some(2)));
    assert!(ledger.finalize(&gathering, T0 + 9).await.unwrap().is_some(), "again, after a crash");
    assert!(ledger.finish(&gathering, &JobEnd::PartiallySucceeded, &news(), T0 + 10).await.unwrap());
    assert!(
        ledger.finish(&gathering, &JobEnd::PartiallySucceeded, &news(), T0 + 11).await.unwrap(),
        "said again"
    );
    assert!(!ledger.finish(&gathering, &JobEnd::Succeeded, &news(), T0 + 11).await.unwrap());
    assert!(ledger.claim_job(&id, "worker", T0 + 9_999, LEASE).await.unwrap().is_none(), "it has ended");

    let record = ledger.job(&id).await.unwrap().unwrap();
    let entered = JobState::ALL.map(|state| record.entered(state).map(|at| at - T0));
    assert_eq!(entered, [Some(0), Some(1), Some(3), Some(4), Some(8), None, Some(10), None, None, None]);
    let counts = Counts { total: 2, succeeded: 1, failed: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert_eq!(listed[1].failure, Some(failure));
    assert_eq!((listed[1].claimed_at, listed[1].ended_at), (Some(T0 + 5), Some(T0 + 7)));
}

pub(super) async fn of_many_claims_one_holds(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 0).await;
    let claims = race(16, |n| {
        let (ledger, id) = (ledger.clone(), id.clone());
        async move { ledger.claim_job(&id, &format!("worker-{n}"), T0, LEASE).await.unwrap() }
    })
    .await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert!(ledger.finalize(&claims[0], T0).await.unwrap().is_some(), "a job without items is complete");
    assert!(ledger.finish(&claims[0], &JobEnd::Succeeded, &news(), T0).await.unwrap());
}

pub(super) async fn an_expired_job_goes_to_another(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let old = claim_job(&ledger, &id, T0).await;
    assert!(ledger.claim_job(&id, "other", T0 + 1_000, LEASE).await.unwrap().is_none());
    assert!(ledger.extend_job(&old, T0 + 500, LEASE).await.unwrap());
    assert!(
        ledger.claim_job(&id, "other", T0 + 1_001, LEASE).await.unwrap().is_none(),
        "the heartbeat counts"
    );
    let new = claim_job(&ledger, &id, T0 + 1_501).await;
    assert_eq!(new.attempt, 2);

    let now = T0 + 1_502;
    assert!(!ledger.extend_job(&old, now, LEASE).await.unwrap());
    assert!(!ledger.add_items(&old, &clips(0..3), 0, now).await.unwrap());
    assert!(!ledger.advance(&old, "cursor", 1, now, LEASE).await.unwrap());
    assert!(!ledger.expanded(&old, now).await.unwrap());
    assert!(ledger.finalize(&old, now).await.unwrap().is_none());
    assert!(!ledger.doom(&old, &Failure::new("x", "y"), now).await.unwrap());
    assert!(!ledger.finish(&old, &JobEnd::Failed(Failure::new("x", "y")), &news(), now).await.unwrap());
    assert!(!ledger.release_job(&old, None).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().cursor, None);
    assert_eq!(ledger.counts(&id).await.unwrap().total, 0);
    assert!(ledger.expanded(&new, now).await.unwrap());
}

pub(super) async fn a_job_given_back_is_rung_for_when_it_is_due(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let silent = Duration::from_millis(100);
    let rung = |now| {
        let ledger = ledger.clone();
        async move { ledger.due_jobs(now, silent, 10).await.unwrap().len() }
    };
    assert_eq!(rung(T0 + 100).await, 0, "it was accepted, and rung for, a moment ago");
    assert_eq!(rung(T0 + 101).await, 1);
    assert_eq!(rung(T0 + 102).await, 0, "rung for a moment ago");
    let claim = claim_job(&ledger, &id, T0 + 150).await;
    assert_eq!(rung(T0 + 1_000).await, 0, "somebody holds it");
    assert!(ledger.release_job(&claim, Some(T0 + 3_000)).await.unwrap());
    assert_eq!(rung(T0 + 2_999).await, 0, "not yet due");
    assert_eq!(rung(T0 + 3_000).await, 1);

    let claim = claim_job(&ledger, &id, T0 + 4_000).await;
    assert!(ledger.add_items(&claim, &clips(0..1), 0, T0 + 4_000).await.unwrap());
    assert_eq!(rung(T0 + 5_001).await, 1, "its holder has fallen silent");
    let claim = claim_job(&ledger, &id, T0 + 6_000).await;
    assert!(ledger.expanded(&claim, T0 + 6_000).await.unwrap());
    assert_eq!(rung(T0 + 7_000).await, 0, "its items are being done");
    let item = claim_item(&ledger, &id, 0, T0 + 7_000).await;
    assert!(ledger.end_item(&item, &ItemEnd::Succeeded, T0 + 7_000).await.unwrap());
    assert_eq!(rung(T0 + 8_000).await, 1, "its results are to be gathered");
    let claim = claim_job(&ledger, &id, T0 + 8_000).await;
    assert!(ledger.release_job(&claim, Some(T0 + 10_000)).await.unwrap());
    assert_eq!(rung(T0 + 9_999).await, 0, "they could not be gathered; later");
    assert_eq!(rung(T0 + 10_000).await, 1);
    let claim = claim_job(&ledger, &id, T0 + 10_000).await;
    assert!(ledger.release_job(&claim, None).await.unwrap());
    assert_eq!(rung(T0 + 10_101).await, 1, "there is still something to do");
}

pub(super) async fn a_failed_job_ends_its_items(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let claim = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &clips(0..3), 0, T0).await.unwrap());
    let running = claim_item(&ledger, &id, 1, T0).await;
    let why = Failure::new("limit_exceeded", "too many items");
    assert!(ledger.doom(&claim, &why, T0 + 1).await.unwrap());
    let doomed = ledger.finalize(&claim, T0 + 1).await.unwrap().expect("nothing is open any more");
    assert_eq!((doomed.failure.as_ref(), doomed.total), (Some(&why), Some(3)));
    assert!(ledger.finish(&claim, &JobEnd::Failed(why.clone()), &news(), T0 + 1).await.unwrap());

    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failure.as_ref()), (JobState::Failed, Some(&why)));
    assert_eq!(record.entered(JobState::Failed), Some(T0 + 1));
    assert!(!ledger.extend_item(&running, None, T0 + 1, LEASE).await.unwrap());
    assert!(!ledger.end_item(&running, &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert!(listed.iter().all(|item| item.state == ItemState::Failed && item.failure == Some(why.clone())));
}

pub(super) async fn a_page_may_come_again(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let first = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&first, &clips(0..1_234), 0, T0).await.unwrap());
    let done = claim_item(&ledger, &id, 7, T0).await;
    assert!(ledger.end_item(&done, &ItemEnd::Succeeded, T0).await.unwrap());
    // The process dies before it has said how far it came; the next one begins the page again.
    let second = claim_job(&ledger, &id, T0 + 2_000).await;
    assert_eq!((second.record.cursor.as_deref(), second.record.next_position), (None, 0));
    assert!(ledger.add_items(&second, &clips(0..1_240), 0, T0 + 2_000).await.unwrap());
    assert!(ledger.add_items(&second, &[], 1_240, T0 + 2_000).await.unwrap());
    assert!(ledger.expanded(&second, T0 + 2_000).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().total, Some(1_240));
    let counts = Counts { total: 1_240, queued: 1_239, succeeded: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
}

pub(super) async fn a_job_ended_from_outside_lets_go(place: Place) {
    let ledger = place.ready().await;
    let id = expanded(&ledger, 5).await;
    let claims = [0, 1, 2, 3].map(|n| (n, id.clone()));
    let mut items = Vec::new();
    for (n, id) in claims {
        items.push(claim_item(&ledger, &id, n, T0).await);
    }
    assert!(ledger.end_item(&items[0], &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    let holder = claim_job(&ledger, &id, T0 + 1).await;
    assert!(ledger.end_early(&id, EarlyEnd::Cancelled, T0 + 2).await.unwrap());
    assert!(!ledger.extend_job(&holder, T0 + 3, LEASE).await.unwrap(), "the job's holder is fenced off");
    assert!(!ledger.add_items(&holder, &clips(5..6), 5, T0 + 3).await.unwrap());

    // Who holds an item learns it by the heartbeat; who ends it sooner has ended it; who is silent has lost it.
    for item in &items[1..] {
        assert!(!ledger.extend_item(item, None, T0 + 3, LEASE).await.unwrap());
    }
    assert!(ledger.end_item(&items[1], &ItemEnd::Succeeded, T0 + 3).await.unwrap());
    assert!(ledger.give_back_item(&items[2], T0 + 3).await.unwrap());
    let queued = ledger.claim_item(&id, &item_id(4), "worker", T0 + 3, LEASE).await.unwrap();
    assert_eq!(
        queued,
        ClaimedItem::Ended { state: ItemState::Cancelled, why: None },
        "nobody begins another"
    );

    let bells = ledger.due_jobs(T0 + 4, Duration::from_secs(60), 10).await.unwrap();
    assert_eq!(bells.iter().map(|bell| &bell.id).collect::<Vec<_>>(), [&id], "rung for at once");
    assert_eq!(ledger.due_jobs(T0 + 4, Duration::from_secs(60), 10).await.unwrap(), [], "and once");
    let claim = claim_job(&ledger, &id, T0 + 5).await;
    assert_eq!(ledger.cancel_open(&claim, T0 + 5, 1).await.unwrap(), Some(1));
    assert_eq!(ledger.cancel_open(&claim, T0 + 5, 1).await.unwrap(), Some(0), "there was one");
    assert_eq!(ledger.cancel_open(&holder, T0 + 5, 1).await.unwrap(), None, "fenced off");
    assert!(ledger.finalize(&claim, T0 + 5).await.unwrap().is_none(), "one is held");
    let late = T0 + LEASE.as_millis() as i64 + 1;
    assert_eq!(ledger.expired_items(late, 10).await.unwrap().len(), 1);
    assert!(ledger.extend_job(&claim, late, LEASE).await.unwrap());
    let record = ledger.finalize(&claim, late).await.unwrap().unwrap();
    assert_eq!((record.failure.as_ref().unwrap().code.as_str(), record.total), ("cancelled", Some(5)));
    let counts = ledger.counts(&id).await.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.cancelled, counts.open()), (5, 2, 3, 0));
    assert!(ledger.finish(&claim, &JobEnd::Early(EarlyEnd::Cancelled), &news(), late).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.state, record.entered(JobState::Cancelled)), (JobState::Cancelled, Some(late)));
    assert!(ledger.claim_job(&id, "worker", T0 + 99_999, LEASE).await.unwrap().is_none(), "it has ended");

    let unfinished = ledger.unfinished_items(&id, None, 2).await.unwrap();
    let (position, last) = &unfinished[1];
    let rest = ledger.unfinished_items(&id, Some((*position, &last.id)), 2).await.unwrap();
    let all: Vec<_> = unfinished.iter().chain(&rest).map(|(position, _)| *position).collect();
    assert_eq!(all, [2, 3, 4]);
}

/// Inputs that were listed when it happened are all that there are.
pub(super) async fn a_job_ended_while_it_is_listed_ends(place: Place) {
    let ledger = place.ready().await;
    let id = accepted(&ledger).await;
    let listing = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&listing, &clips(0..3), 0, T0).await.unwrap());
    assert!(ledger.end_early(&id, EarlyEnd::Expired, T0 + 1).await.unwrap());
    assert!(!ledger.expanded(&listing, T0 + 2).await.unwrap());
    let claim = claim_job(&ledger, &id, T0 + 3).await;
    assert_eq!((claim.record.state, claim.record.total), (JobState::Finalizing, None));
    assert_eq!(ledger.cancel_open(&claim, T0 + 3, 100).await.unwrap(), Some(3));
    let record = ledger.finalize(&claim, T0 + 3).await.unwrap().unwrap();
    assert_eq!((record.total, record.is_listed()), (Some(3), false));
    assert!(ledger.finish(&claim, &JobEnd::Early(EarlyEnd::Expired), &news(), T0 + 4).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    let entered = [JobState::Validating, JobState::Finalizing, JobState::Expired].map(|s| record.entered(s));
    assert_eq!(entered, [Some(T0), Some(T0 + 1), Some(T0 + 4)]);
}

pub(super) async fn what_has_ended_is_not_ended_early(place: Place) {
    let ledger = place.ready().await;
    assert!(!ledger.end_early(&JobId::mint(), EarlyEnd::Cancelled, T0).await.unwrap(), "no such job");
    let id = expanded(&ledger, 1).await;
    let item = claim_item(&ledger, &id, 0, T0).await;
    assert!(ledger.end_item(&item, &ItemEnd::Succeeded, T0).await.unwrap());
    let claim = claim_job(&ledger, &id, T0).await;
    assert!(ledger.finalize(&claim, T0).await.unwrap().is_some());
    assert!(!ledger.end_early(&id, EarlyEnd::Cancelled, T0).await.unwrap(), "its results are being gathered");
    assert!(ledger.finish(&claim, &JobEnd::Succeeded, &news(), T0).await.unwrap());
    assert!(!ledger.end_early(&id, EarlyEnd::Expired, T0).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().state, JobState::Succeeded);
}

pub(super) async fn a_job_waits_for_its_time(place: Place) {
    let ledger = place.ready().await;
    let job = NewJob { not_before: Some(T0 + 500), ..job_named("later", "later", "request") };
    ledger.accept(&job, T0).await.unwrap();
    assert!(ledger.claim_job(&job.id, "worker", T0 + 499, LEASE).await.unwrap().is_none());
    // However long nobody has rung, and however short.
    assert_eq!(ledger.due_jobs(T0 + 499, Duration::ZERO, 10).await.unwrap(), []);
    assert_eq!(ledger.due_jobs(T0 + 500, Duration::MAX, 10).await.unwrap().len(), 1);
    assert_eq!(ledger.due_jobs(T0 + 501, Duration::MAX, 10).await.unwrap(), [], "once");
    assert!(ledger.claim_job(&job.id, "worker", T0 + 500, LEASE).await.unwrap().is_some());

    let never = NewJob { not_before: Some(T0 + 9_999), ..job_named("never", "never", "request") };
    ledger.accept(&never, T0).await.unwrap();
    assert!(ledger.end_early(&never.id, EarlyEnd::Cancelled, T0 + 1).await.unwrap(), "before its time");
    assert!(ledger.claim_job(&never.id, "worker", T0 + 2, LEASE).await.unwrap().is_some(), "to be finished");
}

pub(super) async fn an_overdue_job_is_found(place: Place) {
    let ledger = place.ready().await;
    accepted(&ledger).await;
    for (name, deadline) in [("second", T0 + 20), ("first", T0 + 10), ("third", T0 + 30)] {
        let job = NewJob { deadline: Some(deadline), ..job_named(name, name, name) };
        ledger.accept(&job, T0).await.unwrap();
    }
    let overdue = async |now| {
        let jobs = ledger.overdue_jobs(now, 10).await.unwrap();
        jobs.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(overdue(T0 + 10).await, [""; 0], "not yet");
    assert_eq!(overdue(T0 + 21).await, ["first", "second"]);
    let first = JobId::try_from("first".to_owned()).unwrap();
    assert!(ledger.end_early(&first, EarlyEnd::Expired, T0 + 21).await.unwrap());
    assert_eq!(overdue(T0 + 21).await, ["second"], "the first is on its way out");
}
