//! Contract of routes: which workers claim and announce an item, and which routes have a worker.

use super::*;

fn routed(n: usize, route: &str) -> NewItem {
    let queue = Address { lane: Lane::Urgent, route: Some(Route::new(route)) };
    NewItem { queue, ..clips(n..n + 1).remove(0) }
}

/// Creates a job with an item of any worker, one of route `a` and one of route `b`, queued at `T0`.
async fn job_with_routes(ledger: &Ledger) -> JobId {
    let id = accepted(ledger).await;
    let claim = claim_job(ledger, &id, T0).await;
    let items = [clips(0..1), vec![routed(1, "a"), routed(2, "b")]].concat();
    assert!(ledger.add_items(&claim, &items, 0, T0).await.unwrap());
    assert!(ledger.finish_listing(&claim, T0).await.unwrap());
    id
}

pub(super) async fn only_workers_with_the_route_claim_an_item(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = job_with_routes(&ledger).await;
    let [a, b] = ["a", "b"].map(Route::new);
    let claim = |n: usize, route: Option<&Route>, now: Millis| {
        let (ledger, id, route) = (ledger.clone(), id.clone(), route.cloned());
        async move { ledger.claim_item(&id, &item_id(n), "worker", route.as_ref(), now, LEASE).await.unwrap() }
    };
    let queue = Address { lane: Lane::Urgent, route: Some(b.clone()) };
    for (route, now) in [(None, T0), (Some(&a), T0), (Some(&a), T0 + 60_000)] {
        assert_eq!(claim(2, route, now).await, ClaimOutcome::OtherRoute(queue.clone()));
    }
    let state = ledger.item(&id, &item_id(2)).await.unwrap().unwrap();
    assert_eq!((state.state, state.attempt), (ItemState::Queued, 0));
    assert_eq!(ledger.item_queue(&id, &item_id(2)).await.unwrap(), Some((ItemState::Queued, queue)));
    for (n, route) in [(0, &a), (1, &a), (2, &b)] {
        let claimed = claim(n, Some(route), T0).await;
        assert!(matches!(claimed, ClaimOutcome::Claimed(_)), "{claimed:?}");
    }
    // The expired lease of a lost worker lets no worker without the route claim it.
    assert_eq!(claim(2, Some(&a), T0 + 1_001).await, ClaimOutcome::Leased);
    let claimed = claim(2, Some(&b), T0 + 1_001).await;
    assert!(matches!(&claimed, ClaimOutcome::Claimed(claim) if claim.worker_losses == 1), "{claimed:?}");
}

pub(super) async fn lost_messages_are_returned_by_route(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = job_with_routes(&ledger).await;
    let sweep = async |route: Option<&Route>, now: Millis| {
        let found = ledger.unannounced_items(route, now, Some(LEASE), 9).await.unwrap();
        found.into_iter().map(|pending| (pending.item, pending.queue.route)).collect::<Vec<_>>()
    };
    let (a, now) = (Route::new("a"), T0 + 1_001);
    assert_eq!(sweep(None, now).await, [(item_id(0), None)]);
    assert_eq!(sweep(Some(&a), now).await, [(item_id(1), Some(a.clone()))]);
    assert_eq!(sweep(Some(&a), now).await, [], "once");
    assert_eq!(sweep(Some(&Route::new("c")), now).await, []);
    // A message that was not sent is missing at once, whatever the queue holds.
    assert_eq!(ledger.unannounced_items(Some(&a), now, None, 9).await.unwrap(), []);
    ledger.mark_unannounced(&id, &[&item_id(1), &item_id(0)]).await.unwrap();
    let unsent = ledger.unannounced_items(Some(&a), now, None, 9).await.unwrap();
    assert_eq!(unsent.iter().map(|pending| &pending.item).collect::<Vec<_>>(), [&item_id(1)]);
    assert_eq!(sweep(None, now).await, [(item_id(0), None)]);
    // Any worker requeues an item whose lease has expired, for the workers of its route.
    let claimed = ledger.claim_item(&id, &item_id(1), "lost", Some(&a), now, LEASE).await.unwrap();
    assert!(matches!(claimed, ClaimOutcome::Claimed(_)), "{claimed:?}");
    let expired = ledger.expired_items(now + 1_001, 9).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].queue, Address { lane: Lane::Urgent, route: Some(a) });
}

pub(super) async fn names_routes_without_a_worker(database: TestDatabase) {
    let ledger = database.ready().await;
    let id = job_with_routes(&ledger).await;
    let [a, b] = ["a", "b"].map(Route::new);
    let unserved = async |now: Millis| {
        let found = ledger.unserved_routes(&id, now).await.unwrap();
        assert_eq!(ledger.missing_routes(now).await.unwrap(), found.len() as u64);
        found.into_iter().map(|unserved| (unserved.route, unserved.items)).collect::<Vec<_>>()
    };
    assert_eq!(unserved(T0).await, [(a.clone(), 1), (b.clone(), 1)]);
    ledger.record_worker("first", Some(&a), T0, LEASE).await.unwrap();
    ledger.record_worker("any", None, T0, LEASE).await.unwrap();
    assert_eq!(unserved(T0 + 1_000).await, [(b.clone(), 1)]);
    assert_eq!(unserved(T0 + 1_001).await, [(a.clone(), 1), (b.clone(), 1)], "no heartbeat");
    ledger.record_worker("first", Some(&b), T0 + 900, LEASE).await.unwrap();
    assert_eq!(unserved(T0 + 1_001).await, [(a.clone(), 1)], "the same name with another route");
    ledger.remove_worker("first").await.unwrap();
    assert_eq!(unserved(T0 + 1_001).await.len(), 2);
    let claim = ledger.claim_item(&id, &item_id(1), "first", Some(&a), T0, LEASE).await.unwrap();
    assert!(matches!(claim, ClaimOutcome::Claimed(_)), "{claim:?}");
    assert_eq!(unserved(T0 + 1_001).await, [(b, 1)], "an item with a worker waits for none");
}

pub(super) async fn workers_without_heartbeats_are_forgotten(database: TestDatabase) {
    let ledger = database.ready().await;
    let day = 24 * 3600 * 1000;
    for (name, at) in [("old", T0), ("new", T0 + day), ("newer", T0 + day + 1)] {
        ledger.record_worker(name, None, at, LEASE).await.unwrap();
    }
    let rows = sqlx::query("SELECT name FROM workers ORDER BY name").fetch_all(&ledger.pool).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.try_get("name").unwrap()).collect();
    assert_eq!(names, ["new", "newer"]);
}
