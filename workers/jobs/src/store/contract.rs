//! Contract suite that every store backend must pass.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::*;

const LIMIT: u64 = 1 << 20;

/// Store of one test.
struct TestStore {
    store: Store,
    _folder: Option<tempfile::TempDir>,
}

fn opened(url: &str) -> Store {
    Store::open(url, &StoreSettings::default()).unwrap()
}

fn memory() -> TestStore {
    TestStore { store: opened("memory://"), _folder: None }
}

fn file() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&format!("file://{}/not there yet/50%", folder.path().display()));
    TestStore { store, _folder: Some(folder) }
}

fn s3() -> TestStore {
    let bucket = std::env::var("FLAMINGO_TEST_S3").expect("FLAMINGO_TEST_S3");
    TestStore { store: opened(&format!("{bucket}/test-{}/deeper", uuid::Uuid::now_v7())), _folder: None }
}

macro_rules! contract {
    ($($name:ident)*) => {
        contract! { memory, $($name)* }
        contract! { file, $($name)* }
        contract! { s3, #[ignore = "needs S3"] $($name)* }
    };
    ($place:ident, $(#[$ignore:meta])? $($name:ident)*) => {
        contract! { @module $place [$(#[$ignore])?] $($name)* }
    };
    (@module $place:ident $ignore:tt $($name:ident)*) => {
        mod $place {
            $( contract! { @test $place $ignore $name } )*
        }
    };
    (@test $place:ident [$(#[$ignore:meta])?] $name:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$ignore])?
        async fn $name() {
            let place = super::$place();
            super::$name(&place.store).await;
        }
    };
}

contract! {
    only_one_of_many_writers_creates
    put_new_recognizes_the_same_bytes
    missing_objects_are_none
    put_replaces_an_object
    a_deleted_object_may_be_put_again
    reading_stops_at_the_limit
    supports_unusual_key_characters
    listing_continues_after_the_last_key
    listing_matches_whole_folder_names
    fetches_a_large_object
    refuses_a_changed_object
    upload_is_visible_only_when_finished
    probe_leaves_no_object
    rejects_invalid_keys
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|i| (i * i % 251) as u8).collect::<Vec<_>>().into()
}

async fn scratch() -> tokio::fs::File {
    tokio::fs::File::from_std(tempfile::tempfile().unwrap())
}

async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    let page = store.page(prefix, None, 10_000).await.unwrap();
    page.into_iter().map(|info| info.key).collect()
}

async fn only_one_of_many_writers_creates(store: &Store) {
    let puts = (0..8).map(|n| {
        let store = store.clone();
        async move { store.put_new("job/items/a.json", format!("writer {n}").into()).await.unwrap() }
    });
    let outcomes = join_all(puts).await;
    let there = store.get("job/items/a.json", LIMIT).await.unwrap().unwrap();
    let created = outcomes.iter().filter(|put| **put == Put::Created).count();
    let others = outcomes.iter().filter(|put| **put == Put::Other(there.clone())).count();
    assert_eq!((created, others), (1, 7), "{outcomes:?}");
}

async fn put_new_recognizes_the_same_bytes(store: &Store) {
    assert_eq!(store.put_new("a", "one".into()).await.unwrap(), Put::Created);
    assert_eq!(store.put_new("a", "one".into()).await.unwrap(), Put::Same);
    assert_eq!(store.put_new("a", "two".into()).await.unwrap(), Put::Other("one".into()));
    assert_eq!(store.get("a", LIMIT).await.unwrap().unwrap(), "one");
    assert_eq!(store.put_new("empty", Bytes::new()).await.unwrap(), Put::Created);
    assert_eq!(store.put_new("empty", Bytes::new()).await.unwrap(), Put::Same);
}

async fn missing_objects_are_none(store: &Store) {
    assert_eq!(store.page("", None, 10).await.unwrap(), []);
    assert_eq!(store.page("nowhere", None, 10).await.unwrap(), []);
    store.put("folder/object", "x".into()).await.unwrap();
    for key in ["nothing", "folder", "folder/other", "folder/object/deeper"] {
        assert_eq!(store.get(key, LIMIT).await.unwrap(), None, "{key}");
        assert_eq!(store.head(key).await.unwrap(), None, "{key}");
        let error = store.fetch(key, None, &mut scratch().await, LIMIT).await.unwrap_err();
        assert_eq!((error.code(), error.is_transient()), ("not_found", false), "{key}");
    }
}

async fn put_replaces_an_object(store: &Store) {
    store.put("manifest.json", "first".into()).await.unwrap();
    let first = store.head("manifest.json").await.unwrap().unwrap();
    store.put("manifest.json", "the second".into()).await.unwrap();
    let second = store.head("manifest.json").await.unwrap().unwrap();
    assert_eq!((first.size, second.size), (5, 10));
    assert_ne!(first.etag, second.etag);
    assert_eq!(store.get("manifest.json", LIMIT).await.unwrap().unwrap(), "the second");
}

async fn reading_stops_at_the_limit(store: &Store) {
    store.put("object", bytes(1_000)).await.unwrap();
    assert_eq!(store.get("object", 1_000).await.unwrap().unwrap(), bytes(1_000));
    let get = store.get("object", 999).await.unwrap_err();
    let fetch = store.fetch("object", None, &mut scratch().await, 999).await.unwrap_err();
    for error in [get, fetch] {
        assert_eq!((error.code(), error.is_transient()), ("limit_bytes", false));
        assert_eq!(error.to_string(), format!("{}: larger than the limit of 999 bytes", store.url("object")));
    }
}

async fn supports_unusual_key_characters(store: &Store) {
    let mut names = [
        "in/a b.mp4",
        "in/ä€😀.mp4",
        "in/a+b.mp4",
        "in/50%.mp4",
        "in/%2e%2e.mp4",
        "in/a&b=c?d.mp4",
        "in/'\"~*.mp4",
    ];
    for name in names {
        store.put(name, Bytes::from(name)).await.unwrap();
    }
    names.sort_unstable();
    assert_eq!(keys(store, "in").await, names);
    for name in names {
        assert_eq!(store.get(name, LIMIT).await.unwrap().unwrap(), name);
        assert_eq!(store.head(name).await.unwrap().unwrap().key, name);
    }
}

async fn listing_continues_after_the_last_key(store: &Store) {
    // More objects than S3 lists in one page; `-` and `.` sort before `/`, letters after it.
    let mut expected: Vec<_> =
        (0..1_100).map(|n| format!("in/{}{n}/clip.mp4", ["a", "a-", "a."][n % 3])).collect();
    expected.extend(["in/a".to_owned(), "in/a0".to_owned()].map(|key| key + ".mp4"));
    for some in expected.chunks(50) {
        join_all(some.iter().map(|key| store.put(key, Bytes::new())))
            .await
            .into_iter()
            .for_each(Result::unwrap);
    }
    store.put("other", Bytes::new()).await.unwrap();
    expected.sort();

    let mut listed: Vec<ObjectInfo> = Vec::new();
    loop {
        let page = store.page("in", listed.last().map(|info| info.key.as_str()), 401).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    let mut listed: Vec<_> = listed.into_iter().map(|info| info.key).collect();
    assert_eq!(listed, keys(store, "in").await, "the same order as in one page");
    listed.sort();
    assert_eq!(listed, expected);
    assert_eq!(store.page("in", Some("in/zzz"), 10).await.unwrap(), []);
}

async fn listing_matches_whole_folder_names(store: &Store) {
    for key in ["in/a", "inner/b", "in-c"] {
        store.put(key, "x".into()).await.unwrap();
    }
    assert_eq!(keys(store, "in").await, ["in/a"]);
    let mut all = keys(store, "").await;
    all.sort();
    assert_eq!(all, ["in-c", "in/a", "inner/b"]);
}

async fn fetches_a_large_object(store: &Store) {
    let large = bytes(20 << 20);
    store.put("large", large.clone()).await.unwrap();
    let listed = store.page("", None, 1).await.unwrap().remove(0);
    let mut file = scratch().await;
    let info = store.fetch("large", listed.etag.as_deref(), &mut file, large.len() as u64).await.unwrap();
    assert_eq!(info, listed);
    let mut read = Vec::new();
    file.rewind().await.unwrap();
    file.read_to_end(&mut read).await.unwrap();
    assert!(read == large);
}

async fn refuses_a_changed_object(store: &Store) {
    store.put("object", "as it was listed".into()).await.unwrap();
    let listed = store.head("object").await.unwrap().unwrap();
    store.put("object", "as it is now".into()).await.unwrap();
    let fetched = store.fetch("object", listed.etag.as_deref(), &mut scratch().await, LIMIT).await;
    let error = fetched.unwrap_err();
    assert_eq!((error.code(), error.is_transient()), ("changed", false));
}

async fn upload_is_visible_only_when_finished(store: &Store) {
    for (key, pieces) in [("small", 1), ("large", 20), ("empty", 0)] {
        let mut upload = store.upload(key).unwrap();
        for _ in 0..pieces {
            upload.write(bytes(1 << 20)).await.unwrap();
        }
        assert_eq!(store.get(key, LIMIT).await.unwrap(), None);
        upload.finish().await.unwrap();
        assert_eq!(store.head(key).await.unwrap().unwrap().size, pieces << 20);
    }
    for abort in [false, true] {
        let mut upload = store.upload("unfinished").unwrap();
        for _ in 0..20 {
            upload.write(bytes(1 << 20)).await.unwrap();
        }
        match abort {
            true => upload.abort().await.unwrap(),
            false => drop(upload),
        }
        assert_eq!(store.head("unfinished").await.unwrap(), None);
    }
    assert_eq!(keys(store, "").await, ["empty", "large", "small"]);
}

async fn a_deleted_object_may_be_put_again(store: &Store) {
    for text in ["first", "second"] {
        assert_eq!(store.put_new("items/a.json", text.into()).await.unwrap(), Put::Created);
        store.delete("items/a.json").await.unwrap();
        assert_eq!(store.get("items/a.json", LIMIT).await.unwrap(), None);
    }
    assert_eq!(store.page("items", None, 10).await.unwrap(), []);
}

async fn probe_leaves_no_object(store: &Store) {
    store.probe().await.unwrap();
    assert_eq!(store.page("", None, 10).await.unwrap(), []);
}

async fn rejects_invalid_keys(store: &Store) {
    for key in ["", "/", "..", "../x", "a/../../x", "a/./b", "a//b", "/a", "a/", "a\0b", "a\nb"] {
        let errors = [
            store.get(key, LIMIT).await.unwrap_err(),
            store.put(key, "x".into()).await.unwrap_err(),
            store.put_new(key, "x".into()).await.unwrap_err(),
            store.head(key).await.unwrap_err(),
            store.delete(key).await.unwrap_err(),
            store.fetch(key, None, &mut scratch().await, LIMIT).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.code(), error.is_transient()), ("bad_url", false), "{key:?}");
        }
        assert!(store.upload(key).is_err(), "{key:?}");
    }
}

#[tokio::test]
async fn rejects_links_out_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::write(inside.join("clip"), "clip").unwrap();
    std::os::unix::fs::symlink(inside.join("clip"), inside.join("same")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), inside.join("file")).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("folder")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("nowhere"), inside.join("broken")).unwrap();

    // The root itself may be a link.
    std::os::unix::fs::symlink(&inside, folder.path().join("root")).unwrap();
    let store = opened(&format!("file://{}", folder.path().join("root").display()));
    assert_eq!(keys(&store, "").await, ["clip", "same"]);
    assert_eq!(store.get("same", LIMIT).await.unwrap().unwrap(), "clip");
    for key in ["file", "folder/secret"] {
        assert_eq!(store.get(key, LIMIT).await.unwrap_err().code(), "forbidden");
        assert_eq!(store.head(key).await.unwrap_err().code(), "forbidden");
        let fetched = store.fetch(key, None, &mut scratch().await, LIMIT).await;
        assert_eq!(fetched.unwrap_err().code(), "forbidden");
    }
    assert_eq!(store.get("broken", LIMIT).await.unwrap(), None);
}

#[tokio::test]
async fn first_write_creates_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("a/b");
    let store = opened(&format!("file://{}/", missing.display()));
    assert_eq!(store.page("", None, 1).await.unwrap(), []);
    assert!(!missing.exists());
    store.put("c/d", "x".into()).await.unwrap();
    assert_eq!(std::fs::read_to_string(missing.join("c/d")).unwrap(), "x");
    assert_eq!(store.url("c/d"), format!("file://{}/c/d", missing.display()));
}

#[test]
fn rejects_bad_urls_without_showing_secrets() {
    for url in [
        "",
        "results",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket/x",
        "s3://b/../c",
        "file://",
        "ftp://x",
        "memory://x",
    ] {
        let error = Store::open(url, &StoreSettings::default()).err().expect(url);
        assert_eq!(error.code(), "bad_url", "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
