//! Tests of stored and encoded support sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flamingo::few_shot::SupportSet;
use inference::support::EncodedSet;
use jobs::store::{Store, StoreSettings};
use jobs::{Failure, Stopped};
use tokio::sync::Notify;

use super::*;
use crate::api::{LeftOut, SupportName, SupportRef};

fn sets(url: &str) -> (StoredSets, Store) {
    let store = Store::open(url, &StoreSettings::default()).unwrap();
    (StoredSets::new(store.clone()), store)
}

fn set(output: &str) -> SupportSet {
    SupportSet::from_json_lines(&format!("{{\"media\":\"a.mp4\",\"output\":\"{output}\"}}")).unwrap()
}

fn reference(text: &str) -> SupportRef {
    text.parse().unwrap()
}

fn name(text: &str) -> SupportName {
    reference(text).name
}

#[tokio::test]
async fn names_mean_the_version_that_was_added_last() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file://{}", folder.path().display());
    for url in ["memory://", &file] {
        let (sets, store) = sets(url);
        assert_eq!(sets.list().await.unwrap(), []);
        let first = sets.add(&name("birds"), &set("owl")).await.unwrap();
        let second = sets.add(&name("birds"), &set("frog")).await.unwrap();
        assert!(first.is_new && second.is_new && first.version != second.version);
        let current = || async { sets.resolve(&reference("birds")).await.unwrap() };
        assert_eq!(current().await, second.version);
        assert_eq!(sets.read(&first.version).await.unwrap(), set("owl"), "an earlier version stays");
        assert_eq!(sets.read(&second.version).await.unwrap(), set("frog"));
        let again = sets.add(&name("birds"), &set("owl")).await.unwrap();
        assert_eq!((&again.version, again.is_new), (&first.version, false));
        assert_eq!(current().await, first.version);
        let fixed = reference(&second.version.to_string());
        assert_eq!(sets.resolve(&fixed).await.unwrap(), second.version);

        // The sets of jobs are not listed, and have no name.
        let of_job = sets.add_of_job(&set("key")).await.unwrap();
        assert_eq!(sets.read(&of_job).await.unwrap(), set("key"));
        sets.add(&name("art"), &set("key")).await.unwrap();
        let listed = sets.list().await.unwrap();
        let names: Vec<_> = listed.iter().map(|v| (v.name.to_string(), v.is_current)).collect();
        assert_eq!(names.iter().filter(|(name, _)| name == "birds").count(), 2);
        assert_eq!((names.len(), &names[0]), (3, &("art".to_owned(), true)));
        assert_eq!(names.iter().filter(|(_, is_current)| *is_current).count(), 2);

        // Another object in the place of a version is never read as the set.
        let key = format!("support/birds/{}.jsonl", first.version.version);
        store.put(&key, "{\"media\":\"b.mp4\",\"output\":\"owl\"}\n".into()).await.unwrap();
        let error = sets.read(&first.version).await.unwrap_err();
        assert_eq!(error.code(), "bad_support");
        assert!(error.to_string().contains("another hash"), "{error}");
    }
}

#[tokio::test]
async fn removed_sets_are_gone() {
    let (sets, _) = sets("memory://");
    let first = sets.add(&name("birds"), &set("owl")).await.unwrap().version;
    let second = sets.add(&name("birds"), &set("frog")).await.unwrap().version;
    let (old, new) = (reference(&first.to_string()), reference(&second.to_string()));
    let error = sets.remove(&new).await.unwrap_err();
    assert!(error.to_string().contains("is the current version of birds"), "{error}");
    sets.remove(&old).await.unwrap();
    assert_eq!(sets.read(&first).await.unwrap_err().code(), "support_not_found");
    assert_eq!(sets.remove(&old).await.unwrap_err().code(), "support_not_found");
    sets.remove(&new).await.unwrap();
    assert_eq!(sets.resolve(&reference("birds")).await.unwrap_err().code(), "support_not_found");
    for (text, add) in [("birds", true), ("birds", false), ("bird", false)] {
        if add {
            sets.add(&name(text), &set("owl")).await.unwrap();
        }
        assert_eq!(sets.remove(&reference(text)).await.is_ok(), add, "{text}");
    }
    assert_eq!(sets.list().await.unwrap(), []);
}

fn usable(left_out: usize) -> UsableExamples {
    let left_out = (0..left_out).map(|n| LeftOut {
        media: format!("{n}.mp4"),
        code: "not_found".into(),
        message: String::new(),
    });
    UsableExamples::new(EncodedSet::new(Vec::new()).unwrap(), left_out.collect())
}

/// Items that ask at once wait for one encoding; if it is cancelled or fails, another item encodes.
#[tokio::test]
async fn a_set_is_encoded_once() {
    let cache = Arc::new(EncodedSets::new(1 << 20));
    let (count, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let ask = || {
        let (cache, count, go) = (cache.clone(), count.clone(), go.clone());
        tokio::spawn(async move {
            let encode = async {
                count.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(usable(0))
            };
            cache.get_or_encode("set".into(), encode).await
        })
    };
    let started = |n: usize| {
        let count = count.clone();
        async move {
            while count.load(Ordering::SeqCst) < n {
                tokio::task::yield_now().await;
            }
        }
    };
    let first = ask();
    started(1).await;
    let others = [ask(), ask()];
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    started(2).await;
    go.notify_one();
    for other in others {
        other.await.unwrap().unwrap();
    }
    ask().await.unwrap().unwrap();
    assert_eq!(
        count.load(Ordering::SeqCst),
        2,
        "the first encoding was cancelled, the second one serves all"
    );

    let failing = async { Err(Stopped::retry_free(Failure::new("store_unavailable", "away"))) };
    assert!(cache.get_or_encode("other".into(), failing).await.is_err());
    assert!(
        cache.get_or_encode("other".into(), async { Ok(usable(0)) }).await.is_ok(),
        "an error is not kept"
    );
}

#[tokio::test]
async fn sets_stay_within_the_budget() {
    let cache = EncodedSets::new(20_000);
    for n in 0..100 {
        cache.get_or_encode(format!("set {n}"), async { Ok(usable(20)) }).await.unwrap();
    }
    let count = Arc::new(AtomicUsize::new(0));
    for n in 0..100 {
        let encode = async {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(usable(20))
        };
        cache.get_or_encode(format!("set {n}"), encode).await.unwrap();
    }
    let encoded = count.load(Ordering::SeqCst);
    assert!((1..=100).contains(&encoded), "{encoded} of 100 sets were encoded again");
    // A set that is larger than the budget serves its item.
    let large = cache.get_or_encode("large".into(), async { Ok(usable(10_000)) }).await.unwrap();
    let support = sets("memory://").0.add_of_job(&set("owl")).await.unwrap();
    let report = large.report(support);
    assert_eq!((report.left_out.len(), report.more_left_out), (100, 9900));
}
