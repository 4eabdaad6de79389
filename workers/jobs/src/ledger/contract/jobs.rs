//! Contract of jobs: accept once, claim once, end once.

use super::*;

pub(super) async fn accepts_a_job_once(database: TestDatabase) {
    let ledger = database.ready().await;
    let first = job_named("first", "key-1", "request");
    let Accepted::New(record) = ledger.accept(&first, T0).await.unwrap() else { panic!("not new") };
    assert_eq!((record.state, record.accepted_at(), record.attempt), (JobState::Accepted, T0, 0));
    assert_eq!(record.message, first.message);
    ledger.accept(&job_named("second", "key-2", "another request"), T0).await.unwrap();

    for (id, key, request, expected) in [
        ("first", "key-1", "request", Ok("first")),
        ("first", "key-9", "request", Ok("first")),
        ("third", "key-1", "request", Ok("first")),
        ("first", "key-1", "other", Err("first")),
        ("third", "key-1", "other", Err("first")),
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
    assert_eq!(ledger.job(&JobId::generate()).await.unwrap(), None);
}

pub(super) async fn only_one_of_many_submissions_is_new(database: TestDatabase) {
    let ledger = database.ready().await;
    let outcomes = race(16, |n| {
        let ledger = ledger.clone();
        async move { ledger.accept(&job_named(&format!("job-{n}"), "key", "request"), T0).await.unwrap() }
    })
    .await;
    let new = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::New(_))).count();
    let same = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Same(_))).count();
    assert_eq!((new, same), (1, 15));
}

pub(super) async fn job_enters_its_states_in_order(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let listing = claim_job(&ledger, &id, T0 + 1).await;
    assert_eq!((listing.attempt, listing.record.state), (1, JobState::Validating));
    assert!(ledger.begin_finalizing(&listing, T0 + 2).await.unwrap().is_none(), "not every item is known");
    assert!(ledger.add_items(&listing, &clips(0..2), 0, T0 + 2).await.unwrap());
    assert!(ledger.save_cursor(&listing, "page 2", 2, T0 + 2, LEASE).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.cursor.as_deref(), record.next_position, record.total), (Some("page 2"), 2, None));
    assert!(ledger.finish_listing(&listing, T0 + 3).await.unwrap());
    assert!(!ledger.renew_job_lease(&listing, T0 + 3, LEASE).await.unwrap(), "the claim has ended");

    let items = [claim_item(&ledger, &id, 0, T0 + 4).await, claim_item(&ledger, &id, 1, T0 + 5).await];
    assert_eq!((items[0].job_state, items[1].job_state), (JobState::Queued, JobState::Running));
    let failure = Failure::new("not_found", "clip-1 was not found");
    assert!(ledger.end_item(&items[0], &ItemEnd::Succeeded, T0 + 6).await.unwrap());
    assert!(ledger.has_open_items(&id).await.unwrap());
    let early = claim_job(&ledger, &id, T0 + 6).await;
    assert!(ledger.begin_finalizing(&early, T0 + 6).await.unwrap().is_none(), "an item is open");
    assert!(
        !ledger.finish(&early, &JobEnd::Succeeded, &end_event(), T0 + 6).await.unwrap(),
        "it is not finalizing"
    );
    assert!(ledger.release_job(&early, None).await.unwrap());
    assert!(ledger.end_item(&items[1], &ItemEnd::Failed(failure.clone()), T0 + 7).await.unwrap());
    assert!(!ledger.has_open_items(&id).await.unwrap());

    let gathering = claim_job(&ledger, &id, T0 + 8).await;
    let record = ledger.begin_finalizing(&gathering, T0 + 8).await.unwrap().unwrap();
    assert_eq!((record.state, record.total), (JobState::Finalizing, Some(2)));
    assert!(ledger.begin_finalizing(&gathering, T0 + 9).await.unwrap().is_some(), "again, after a crash");
    assert!(ledger.finish(&gathering, &JobEnd::PartiallySucceeded, &end_event(), T0 + 10).await.unwrap());
    assert!(
        ledger.finish(&gathering, &JobEnd::PartiallySucceeded, &end_event(), T0 + 11).await.unwrap(),
        "repeated"
    );
    assert!(!ledger.finish(&gathering, &JobEnd::Succeeded, &end_event(), T0 + 11).await.unwrap());
    assert!(ledger.claim_job(&id, "worker", T0 + 9_999, LEASE).await.unwrap().is_none(), "it has ended");

    let record = ledger.job(&id).await.unwrap().unwrap();
    let entered = JobState::ALL.map(|state| record.entered_at(state).map(|at| at - T0));
    assert_eq!(entered, [Some(0), Some(1), Some(3), Some(4), Some(8), None, Some(10), None, None, None]);
    let counts = Counts { total: 2, succeeded: 1, failed: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert_eq!(listed[1].failure, Some(failure));
    assert_eq!((listed[1].claimed_at, listed[1].ended_at), (Some(T0 + 5), Some(T0 + 7)));
}

pub(super) async fn only_one_of_many_claims_succeeds(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 0).await;
    let claims = race(16, |n| {
        let (ledger, id) = (ledger.clone(), id.clone());
        async move { ledger.claim_job(&id, &format!("worker-{n}"), T0, LEASE).await.unwrap() }
    })
    .await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert!(
        ledger.begin_finalizing(&claims[0], T0).await.unwrap().is_some(),
        "a job without items is complete"
    );
    assert!(ledger.finish(&claims[0], &JobEnd::Succeeded, &end_event(), T0).await.unwrap());
}

pub(super) async fn expired_job_lease_lets_another_worker_claim(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let old = claim_job(&ledger, &id, T0).await;
    assert!(ledger.claim_job(&id, "other", T0 + 1_000, LEASE).await.unwrap().is_none());
    assert!(ledger.renew_job_lease(&old, T0 + 500, LEASE).await.unwrap());
    assert!(
        ledger.claim_job(&id, "other", T0 + 1_001, LEASE).await.unwrap().is_none(),
        "the heartbeat counts"
    );
    let new = claim_job(&ledger, &id, T0 + 1_501).await;
    assert_eq!(new.attempt, 2);

    let now = T0 + 1_502;
    assert!(!ledger.renew_job_lease(&old, now, LEASE).await.unwrap());
    assert!(!ledger.add_items(&old, &clips(0..3), 0, now).await.unwrap());
    assert!(!ledger.save_cursor(&old, "cursor", 1, now, LEASE).await.unwrap());
    assert!(!ledger.finish_listing(&old, now).await.unwrap());
    assert!(ledger.begin_finalizing(&old, now).await.unwrap().is_none());
    assert!(!ledger.fail_job(&old, &Failure::new("x", "y"), now).await.unwrap());
    assert!(!ledger.finish(&old, &JobEnd::Failed(Failure::new("x", "y")), &end_event(), now).await.unwrap());
    assert!(!ledger.release_job(&old, None).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().cursor, None);
    assert_eq!(ledger.counts(&id).await.unwrap().total, 0);
    assert!(ledger.finish_listing(&new, now).await.unwrap());
}

pub(super) async fn released_job_gets_a_message_when_due(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let min_age = Duration::from_millis(100);
    let announced = |now| {
        let ledger = ledger.clone();
        async move { ledger.due_jobs(now, min_age, 10).await.unwrap().len() }
    };
    assert_eq!(announced(T0 + 100).await, 0, "it was accepted and announced a moment ago");
    assert_eq!(announced(T0 + 101).await, 1);
    assert_eq!(announced(T0 + 102).await, 0, "it was announced a moment ago");
    let claim = claim_job(&ledger, &id, T0 + 150).await;
    assert_eq!(announced(T0 + 1_000).await, 0, "a worker holds it");
    assert!(ledger.release_job(&claim, Some(T0 + 3_000)).await.unwrap());
    assert_eq!(announced(T0 + 2_999).await, 0, "not yet due");
    assert_eq!(announced(T0 + 3_000).await, 1);

    let claim = claim_job(&ledger, &id, T0 + 4_000).await;
    assert!(ledger.add_items(&claim, &clips(0..1), 0, T0 + 4_000).await.unwrap());
    assert_eq!(announced(T0 + 5_001).await, 1, "its lease has expired");
    let claim = claim_job(&ledger, &id, T0 + 6_000).await;
    assert!(ledger.finish_listing(&claim, T0 + 6_000).await.unwrap());
    assert_eq!(announced(T0 + 7_000).await, 0, "its items are being done");
    let item = claim_item(&ledger, &id, 0, T0 + 7_000).await;
    assert!(ledger.end_item(&item, &ItemEnd::Succeeded, T0 + 7_000).await.unwrap());
    assert_eq!(announced(T0 + 8_000).await, 1, "its results are to be gathered");
    let claim = claim_job(&ledger, &id, T0 + 8_000).await;
    assert!(ledger.release_job(&claim, Some(T0 + 10_000)).await.unwrap());
    assert_eq!(announced(T0 + 9_999).await, 0, "they could not be gathered; later");
    assert_eq!(announced(T0 + 10_000).await, 1);
    let claim = claim_job(&ledger, &id, T0 + 10_000).await;
    assert!(ledger.release_job(&claim, None).await.unwrap());
    assert_eq!(announced(T0 + 10_101).await, 1, "there is still something to do");
}

pub(super) async fn failing_a_job_fails_its_open_items(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let claim = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&claim, &clips(0..3), 0, T0).await.unwrap());
    let running = claim_item(&ledger, &id, 1, T0).await;
    let reason = Failure::new("limit_exceeded", "too many items");
    assert!(ledger.fail_job(&claim, &reason, T0 + 1).await.unwrap());
    let failing = ledger.begin_finalizing(&claim, T0 + 1).await.unwrap().expect("nothing is open any more");
    assert_eq!((failing.failure.as_ref(), failing.total), (Some(&reason), Some(3)));
    assert!(ledger.finish(&claim, &JobEnd::Failed(reason.clone()), &end_event(), T0 + 1).await.unwrap());

    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failure.as_ref()), (JobState::Failed, Some(&reason)));
    assert_eq!(record.entered_at(JobState::Failed), Some(T0 + 1));
    assert!(!ledger.renew_item_lease(&running, None, T0 + 1, LEASE).await.unwrap());
    assert!(!ledger.end_item(&running, &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    let listed = ledger.items(&id, None, 10).await.unwrap();
    assert!(
        listed.iter().all(|item| item.state == ItemState::Failed && item.failure == Some(reason.clone()))
    );
}

pub(super) async fn inserting_a_page_twice_changes_nothing(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let first = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&first, &clips(0..1_234), 0, T0).await.unwrap());
    let done = claim_item(&ledger, &id, 7, T0).await;
    assert!(ledger.end_item(&done, &ItemEnd::Succeeded, T0).await.unwrap());
    // The process crashes before it saves the cursor; the next one repeats the page.
    let second = claim_job(&ledger, &id, T0 + 2_000).await;
    assert_eq!((second.record.cursor.as_deref(), second.record.next_position), (None, 0));
    assert!(ledger.add_items(&second, &clips(0..1_240), 0, T0 + 2_000).await.unwrap());
    assert!(ledger.add_items(&second, &[], 1_240, T0 + 2_000).await.unwrap());
    assert!(ledger.finish_listing(&second, T0 + 2_000).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().total, Some(1_240));
    let counts = Counts { total: 1_240, queued: 1_239, succeeded: 1, ..Counts::default() };
    assert_eq!(ledger.counts(&id).await.unwrap(), counts);
}

pub(super) async fn cancelled_job_invalidates_claims(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = expanded_job(&ledger, 5).await;
    let claims = [0, 1, 2, 3].map(|n| (n, id.clone()));
    let mut items = Vec::new();
    for (n, id) in claims {
        items.push(claim_item(&ledger, &id, n, T0).await);
    }
    assert!(ledger.end_item(&items[0], &ItemEnd::Succeeded, T0 + 1).await.unwrap());
    let holder = claim_job(&ledger, &id, T0 + 1).await;
    assert!(ledger.end_early(&id, EarlyEnd::Cancelled, T0 + 2).await.unwrap());
    assert!(!ledger.renew_job_lease(&holder, T0 + 3, LEASE).await.unwrap(), "the claim of the job is stale");
    assert!(!ledger.add_items(&holder, &clips(5..6), 5, T0 + 3).await.unwrap());

    // The holder of an item learns it by the heartbeat. It may still end the item; a silent holder loses it.
    for item in &items[1..] {
        assert!(!ledger.renew_item_lease(item, None, T0 + 3, LEASE).await.unwrap());
    }
    assert!(ledger.end_item(&items[1], &ItemEnd::Succeeded, T0 + 3).await.unwrap());
    assert!(ledger.stop_item(&items[2], &cancelled(), T0 + 3, T0 + 3).await.unwrap());
    let queued = ledger.claim_item(&id, &item_id(4), "worker", None, T0 + 3, LEASE).await.unwrap();
    assert_eq!(queued, ClaimOutcome::Finished { reason: None }, "no further item begins");

    let pending = ledger.due_jobs(T0 + 4, Duration::from_secs(60), 10).await.unwrap();
    assert_eq!(pending.iter().map(|pending| &pending.id).collect::<Vec<_>>(), [&id], "announced immediately");
    assert_eq!(ledger.due_jobs(T0 + 4, Duration::from_secs(60), 10).await.unwrap(), [], "announced once");
    let claim = claim_job(&ledger, &id, T0 + 5).await;
    assert_eq!(ledger.cancel_open_items(&claim, T0 + 5, 1).await.unwrap(), Some(1));
    assert_eq!(ledger.cancel_open_items(&claim, T0 + 5, 1).await.unwrap(), Some(0), "there was one");
    assert_eq!(ledger.cancel_open_items(&holder, T0 + 5, 1).await.unwrap(), None, "stale claim");
    assert!(ledger.begin_finalizing(&claim, T0 + 5).await.unwrap().is_none(), "one item is claimed");
    let late = T0 + LEASE.as_millis() as i64 + 1;
    assert_eq!(ledger.expired_items(late, 10).await.unwrap().len(), 1);
    assert!(ledger.renew_job_lease(&claim, late, LEASE).await.unwrap());
    let record = ledger.begin_finalizing(&claim, late).await.unwrap().unwrap();
    assert_eq!((record.failure.as_ref().unwrap().code.as_str(), record.total), ("cancelled", Some(5)));
    let counts = ledger.counts(&id).await.unwrap();
    assert_eq!((counts.total, counts.succeeded, counts.cancelled, counts.open()), (5, 2, 3, 0));
    assert!(ledger.finish(&claim, &JobEnd::Early(EarlyEnd::Cancelled), &end_event(), late).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    assert_eq!((record.state, record.entered_at(JobState::Cancelled)), (JobState::Cancelled, Some(late)));
    assert!(ledger.claim_job(&id, "worker", T0 + 99_999, LEASE).await.unwrap().is_none(), "it has ended");

    let unfinished = ledger.unfinished_items(&id, None, 2).await.unwrap();
    let (position, last) = &unfinished[1];
    let rest = ledger.unfinished_items(&id, Some((*position, &last.id)), 2).await.unwrap();
    let all: Vec<_> = unfinished.iter().chain(&rest).map(|(position, _)| *position).collect();
    assert_eq!(all, [2, 3, 4]);
}

/// The job keeps the items that were listed before its end.
pub(super) async fn job_ended_during_listing_finishes(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = accepted(&ledger).await;
    let listing = claim_job(&ledger, &id, T0).await;
    assert!(ledger.add_items(&listing, &clips(0..3), 0, T0).await.unwrap());
    assert!(ledger.end_early(&id, EarlyEnd::Expired, T0 + 1).await.unwrap());
    assert!(!ledger.finish_listing(&listing, T0 + 2).await.unwrap());
    let claim = claim_job(&ledger, &id, T0 + 3).await;
    assert_eq!((claim.record.state, claim.record.total), (JobState::Finalizing, None));
    assert_eq!(ledger.cancel_open_items(&claim, T0 + 3, 100).await.unwrap(), Some(3));
    let record = ledger.begin_finalizing(&claim, T0 + 3).await.unwrap().unwrap();
    assert_eq!((record.total, record.is_listed()), (Some(3), false));
    assert!(ledger.finish(&claim, &JobEnd::Early(EarlyEnd::Expired), &end_event(), T0 + 4).await.unwrap());
    let record = ledger.job(&id).await.unwrap().unwrap();
    let entered =
        [JobState::Validating, JobState::Finalizing, JobState::Expired].map(|s| record.entered_at(s));
    assert_eq!(entered, [Some(T0), Some(T0 + 1), Some(T0 + 4)]);
}

pub(super) async fn ended_job_cannot_end_early(database: TestDatabase) {
    let ledger = database.ready().await;
    assert!(!ledger.end_early(&JobId::generate(), EarlyEnd::Cancelled, T0).await.unwrap(), "no such job");
    let id = expanded_job(&ledger, 1).await;
    let item = claim_item(&ledger, &id, 0, T0).await;
    assert!(ledger.end_item(&item, &ItemEnd::Succeeded, T0).await.unwrap());
    let claim = claim_job(&ledger, &id, T0).await;
    assert!(ledger.begin_finalizing(&claim, T0).await.unwrap().is_some());
    assert!(!ledger.end_early(&id, EarlyEnd::Cancelled, T0).await.unwrap(), "its results are being gathered");
    assert!(ledger.finish(&claim, &JobEnd::Succeeded, &end_event(), T0).await.unwrap());
    assert!(!ledger.end_early(&id, EarlyEnd::Expired, T0).await.unwrap());
    assert_eq!(ledger.job(&id).await.unwrap().unwrap().state, JobState::Succeeded);
}

pub(super) async fn job_waits_for_not_before(database: TestDatabase) {
    let ledger = database.ready().await;
    let job = NewJob { not_before: at(T0 + 500), ..job_named("later", "later", "request") };
    ledger.accept(&job, T0).await.unwrap();
    assert!(ledger.claim_job(&job.id, "worker", T0 + 499, LEASE).await.unwrap().is_none());
    // With any minimum age of its last message.
    assert_eq!(ledger.due_jobs(T0 + 499, Duration::ZERO, 10).await.unwrap(), []);
    assert_eq!(ledger.due_jobs(T0 + 500, Duration::MAX, 10).await.unwrap().len(), 1);
    assert_eq!(ledger.due_jobs(T0 + 501, Duration::MAX, 10).await.unwrap(), [], "once");
    assert!(ledger.claim_job(&job.id, "worker", T0 + 500, LEASE).await.unwrap().is_some());

    let never = NewJob { not_before: at(T0 + 9_999), ..job_named("never", "never", "request") };
    ledger.accept(&never, T0).await.unwrap();
    assert!(ledger.end_early(&never.id, EarlyEnd::Cancelled, T0 + 1).await.unwrap(), "before its time");
    assert!(ledger.claim_job(&never.id, "worker", T0 + 2, LEASE).await.unwrap().is_some(), "to be finished");
}

pub(super) async fn durations_begin_at_acceptance(database: TestDatabase) {
    let ledger = database.ready().await;
    let after = |seconds| Some(RequestTime::AfterAcceptance(Duration::from_secs(seconds)));
    let job = NewJob { not_before: after(2), deadline: after(60), ..job_named("soon", "soon", "request") };
    ledger.accept(&job, T0).await.unwrap();
    // The same message again, by a later worker.
    let Accepted::Same(record) = ledger.accept(&job, T0 + 30_000).await.unwrap() else {
        panic!("it is the same job")
    };
    assert_eq!((record.not_before, record.deadline), (Some(T0 + 2_000), Some(T0 + 60_000)));
    assert!(ledger.claim_job(&job.id, "worker", T0 + 1_999, LEASE).await.unwrap().is_none());
}

pub(super) async fn finds_overdue_jobs(database: TestDatabase) {
    let ledger = database.ready().await;
    accepted(&ledger).await;
    for (name, deadline) in [("second", T0 + 20), ("first", T0 + 10), ("third", T0 + 30)] {
        let job = NewJob { deadline: at(deadline), ..job_named(name, name, name) };
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
    assert_eq!(overdue(T0 + 21).await, ["second"], "the first is finalizing");
}
