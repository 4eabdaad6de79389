//! `flamingo model pull` brings complete, checked files into the cache, whatever the hub and the network do, and `--model`
//! takes the name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::clips::clip;
use support::language_model::smollm2;
use support::tiny_hub::{COMMIT, Fault, TinyHub, git_hash};
use tempfile::TempDir;

use crate::program::{QUICK, Ran, binary, listing, model, read_json, run};

mod usable_names;

/// Name of the repository of the tests.
const NAME: &str = "tests/tiny";
const WEIGHTS: &str = "model.safetensors";

/// A hub with one repository, and an empty cache.
struct World {
    hub: TinyHub,
    home: TempDir,
}

/// Content of the large file.
fn weights() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

const CONFIG: &[u8] = br#"{"model_type": "tiny"}"#;

impl World {
    fn new() -> Self {
        let world = Self { hub: TinyHub::start(), home: tempfile::tempdir().unwrap() };
        let weights = weights();
        world.hub.add(
            NAME,
            &[
                ("README.md", b"a model"),
                ("config.json", CONFIG),
                ("pytorch_model.bin", &weights[..5000]),
                (WEIGHTS, &weights),
                ("sub/tokenizer.json", b"{}"),
            ],
        );
        world
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for variable in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(variable);
        }
        command.args(arguments).envs(self.hub.env(self.home.path()));
        command
    }

    fn pull(&self, arguments: &[&str]) -> Ran {
        run(self.command(&["model", "pull"]).args(arguments))
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--tests--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    /// Asserts that the files of the repository are in the cache, right and without left-overs.
    #[track_caller]
    fn is_complete(&self) {
        assert_eq!(std::fs::read(self.snapshot().join(WEIGHTS)).unwrap(), weights());
        assert_eq!(std::fs::read(self.snapshot().join("config.json")).unwrap(), CONFIG);
        assert_eq!(listing(&self.snapshot()), ["config.json", WEIGHTS]);
        let mut blobs = vec![git_hash(CONFIG), flamingo::digest::sha256(&weights())];
        blobs.sort();
        assert_eq!(listing(&self.repo().join("blobs")), blobs);
        assert_eq!(std::fs::read_to_string(self.repo().join("refs/main")).unwrap(), COMMIT);
    }

    /// Asserts that the pull fails with this text, and that the model is not usable.
    #[track_caller]
    fn fails(&self, arguments: &[&str], says: &str) -> Ran {
        let ran = self.pull(arguments).exits(1);
        let lines: Vec<_> = ran.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(says), "{says}: {ran:?}");
        assert!(!self.repo().join("refs/main").exists(), "{ran:?}");
        let used = run(&mut self.command(&["model", "inspect", "--model", NAME])).exits(2);
        assert!(used.err.contains("pull it with `flamingo model pull tests/tiny`"), "{used:?}");
        ran
    }
}

#[test]
fn pulls_the_needed_files() {
    let world = World::new();
    let ran = world.pull(&[NAME]).exits(0);
    assert_eq!(Path::new(ran.out.trim()), world.snapshot());
    assert!(ran.err.contains("tests/tiny: licence: the model card names `mit`"), "{ran:?}");
    world.is_complete();
    // Relative links, so that the cache can be moved.
    let link = std::fs::read_link(world.snapshot().join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_hash(CONFIG)));
    let record = read_json(&world.repo().join("flamingo").join(COMMIT).join("pulled.json"));
    assert_eq!((record["name"].as_str(), record["licence"].as_str().is_some()), (Some(NAME), true));
    let repo = &record["repositories"][0];
    assert_eq!((repo["revision"].as_str(), repo["commit"].as_str()), (Some("main"), Some(COMMIT)));
    assert_eq!(repo["files"].as_array().unwrap().len(), 2);
    // A second pull asks for no file.
    let again = world.pull(&[NAME]).exits(0);
    assert!(again.err.contains("tests/tiny: 2 files of 3.0 MB, 0.0 MB to download"), "{again:?}");
    assert_eq!(world.hub.requests(WEIGHTS).len(), 1);
}

#[test]
fn resumes_after_cut_connections_and_between_runs() {
    let world = World::new();
    for _ in 0..3 {
        world.hub.fail(WEIGHTS, Fault::CutAfter(700_000));
    }
    world.hub.fail(WEIGHTS, Fault::Status("503 Service Unavailable", String::new()));
    world.pull(&[NAME]).exits(0);
    world.is_complete();
    let ranges: Vec<_> = world.hub.requests(WEIGHTS).into_iter().map(|request| request.range).collect();
    let expected = [None, Some(700_000), Some(1_400_000), Some(2_100_000), Some(2_100_000)];
    assert_eq!(ranges, expected.map(|start| start.map(|start: u64| format!("bytes={start}-"))));

    let world = World::new();
    world.hub.fail(WEIGHTS, Fault::CutAfter(1_000_000));
    world.hub.fail(WEIGHTS, Fault::Status("403 Forbidden", String::new()));
    world.fails(&[NAME], "refuses access (status 403)");
    world.pull(&[NAME]).exits(0);
    world.is_complete();
    assert_eq!(world.hub.requests(WEIGHTS).last().unwrap().range.as_deref(), Some("bytes=1000000-"));
}

#[test]
fn a_server_without_ranges_sends_the_whole_file() {
    let world = World::new();
    world.hub.fail(WEIGHTS, Fault::CutAfter(1_000_000));
    world.hub.fail(WEIGHTS, Fault::Whole);
    world.pull(&[NAME]).exits(0);
    world.is_complete();
}

#[test]
fn a_killed_pull_continues() {
    let world = World::new();
    world.hub.fail(WEIGHTS, Fault::CutAfter(1_500_000));
    // The answer to the second request never comes while the first process lives.
    world.hub.fail(WEIGHTS, Fault::Slow(Duration::from_secs(20)));
    let mut first = world.command(&["model", "pull", NAME]).spawn().unwrap();
    while world.hub.requests(WEIGHTS).len() < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!world.repo().join("refs/main").exists());
    world.pull(&[NAME]).exits(0);
    world.is_complete();
}

#[test]
fn wrong_content_is_refused() {
    let world = World::new();
    world.hub.fail(WEIGHTS, Fault::Changed);
    let sha256 = flamingo::digest::sha256(&weights());
    world.fails(&[NAME], "model.safetensors: SHA-256 is ");
    assert!(!world.repo().join("blobs").join(&sha256).exists());
    // The wrong bytes are gone: the next pull begins from nothing.
    world.pull(&[NAME]).exits(0);
    world.is_complete();

    let world = World::new();
    world.hub.fail("config.json", Fault::Changed);
    world.fails(&[NAME], "config.json: git hash is ");

    // A damaged part of an earlier pull: downloaded once more.
    let world = World::new();
    std::fs::create_dir_all(world.repo().join("blobs")).unwrap();
    std::fs::write(world.repo().join("blobs").join(format!("{sha256}.incomplete")), [7; 1000]).unwrap();
    world.pull(&[NAME]).exits(0);
    world.is_complete();
    let ranges: Vec<_> = world.hub.requests(WEIGHTS).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [Some("bytes=1000-".to_owned()), None]);
}

#[test]
fn wrong_sizes_are_refused() {
    for announced in [true, false] {
        let world = World::new();
        world.hub.fail(WEIGHTS, Fault::Longer(announced));
        world.fails(&[NAME], "model.safetensors: the server sends 3000004 bytes, the hub lists 3000000");
    }
    let world = World::new();
    for _ in 0..5 {
        world.hub.fail(WEIGHTS, Fault::Text("short".into()));
    }
    world.fails(&[NAME], "model.safetensors: the server sends 5 bytes, the hub lists 3000000");
}

#[test]
fn refusals_are_one_sentence() {
    let check = |target: &str, status: &'static str, code: &str, says: &str| {
        let world = World::new();
        let headers = if code.is_empty() { String::new() } else { format!("x-error-code: {code}\r\n") };
        world.hub.fail(target, Fault::Status(status, headers));
        let ran = world.fails(&[NAME], says);
        let url = world.hub.url();
        assert!(
            code != "GatedRepo" || ran.err.contains(&format!("accept its terms at {url}/tests/tiny")),
            "{ran:?}"
        );
        assert_eq!(world.hub.requests(target).len(), 1, "not repeated");
    };
    check("revision/main", "401 Unauthorized", "GatedRepo", "tests/tiny is gated: accept its terms at ");
    check(
        "resolve/{COMMIT}/model.safetensors".replace("{COMMIT}", COMMIT).as_str(),
        "403 Forbidden",
        "GatedRepo",
        "tests/tiny is gated: ",
    );
    check("revision/main", "401 Unauthorized", "RepoNotFound", "no such repository at ");
    check("revision/main", "401 Unauthorized", "", "check HF_TOKEN");
    check("revision/main", "404 Not Found", "RevisionNotFound", "no such revision");
    check(WEIGHTS, "404 Not Found", "EntryNotFound", "(status 404)");

    let world = World::new();
    let ran = world.pull(&["tests/absent"]).exits(1);
    assert!(ran.err.contains("tests/absent: no such repository at "), "{ran:?}");
    for name in ["tiny", "a/b/c", "../tiny", "tests/tiny@../x"] {
        world.pull(&[name]).exits(2);
    }
}

#[test]
fn servers_that_stay_away_are_one_sentence() {
    let world = World::new();
    for _ in 0..5 {
        world.hub.fail("revision/main", Fault::Status("500 Internal Server Error", String::new()));
    }
    world.fails(&[NAME], "answers with status 500");
    assert_eq!(world.hub.requests("revision/main").len(), 5);

    // A port without a server.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut pull = world.command(&["model", "pull", NAME]);
    let ran = run(pull.env("HF_ENDPOINT", format!("http://{free}"))).exits(1);
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(
        ran.err.contains("cannot reach 127.0.0.1:") && ran.err.contains("check the network, HTTPS_PROXY"),
        "{ran:?}"
    );
    let ran = run(world.command(&["model", "pull", NAME]).env("HF_HUB_OFFLINE", "1")).exits(1);
    assert!(ran.err.contains("HF_HUB_OFFLINE is set"), "{ran:?}");
    // Requests go to the proxy of the environment.
    let mut pull = world.command(&["model", "pull", NAME]);
    let ran = run(pull.env("HF_ENDPOINT", "http://hub.invalid").env("HTTP_PROXY", format!("http://{free}")))
        .exits(1);
    assert!(ran.err.contains("cannot reach hub.invalid: Connection refused"), "{ran:?}");
}

#[test]
fn the_token_reaches_no_other_host() {
    let (world, storage) = (World::new(), TinyHub::start());
    storage.add(NAME, &[(WEIGHTS, &weights())]);
    let target = format!("/{NAME}/resolve/{COMMIT}/{WEIGHTS}");
    let to = format!("location: {}{target}\r\n", storage.url());
    world.hub.fail(WEIGHTS, Fault::Status("302 Found", to));
    // A repository that was renamed: a relative address on the same host.
    let renamed = format!("/api/models/{NAME}/revision/{COMMIT}");
    world
        .hub
        .fail("revision/main", Fault::Status("307 Temporary Redirect", format!("location: {renamed}\r\n")));
    run(world.command(&["model", "pull", NAME]).env("HF_TOKEN", "hf_secret")).exits(0);
    world.is_complete();
    let sent = |hub: &TinyHub| -> Vec<_> {
        hub.requests("").into_iter().map(|request| request.authorization.unwrap_or_default()).collect()
    };
    assert!(sent(&world.hub).iter().all(|token| token == "Bearer hf_secret"), "{:?}", sent(&world.hub));
    assert_eq!(sent(&storage), [""]);

    // Without HF_TOKEN, the token of the file.
    let world = World::new();
    std::fs::write(world.home.path().join("token"), "hf_file\n").unwrap();
    world.pull(&[NAME]).exits(0);
    assert!(sent(&world.hub).iter().all(|token| token == "Bearer hf_file"));

    let world = World::new();
    for _ in 0..20 {
        world.hub.fail(WEIGHTS, Fault::Status("302 Found", format!("location: {target}\r\n")));
    }
    world.fails(&[NAME], "more than 10 redirects");
}

#[test]
fn hostile_listings_are_refused() {
    let check = |files: &[(&str, &[u8])], says: &str| {
        let world = World::new();
        world.hub.add(NAME, files);
        world.fails(&[NAME], says);
        assert_eq!(listing(world.home.path()).len(), usize::from(world.home.path().join("hub").exists()));
    };
    for path in [
        "../../../outside.safetensors",
        "/tmp/outside.safetensors",
        "a/../../b.safetensors",
        "a\\b.safetensors",
    ] {
        check(&[(WEIGHTS, b"w"), (path, b"x")], "which is not a plain relative path");
    }
    check(&[("config.json", CONFIG)], "tests/tiny: the repository has no weights");
    // More than any disk has: refused before the download.
    let world = World::new();
    let oid = "ab".repeat(32);
    let size = 1u64 << 60;
    world.hub.fail(
        "recursive=true",
        Fault::Text(format!(
            r#"[{{"type":"file","oid":"{}","size":1,"path":"{WEIGHTS}","lfs":{{"oid":"{oid}","size":{size}}}}}]"#,
            git_hash(b"")
        )),
    );
    world.fails(&[NAME], "1152921504.61 GB to download, only ");
    assert!(world.hub.requests(WEIGHTS).is_empty());
    let world = World::new();
    world.hub.fail("recursive=true", Fault::Text("<html>".into()));
    world.fails(&[NAME], "not the answer of a model hub");
    let world = World::new();
    let away = "link: <http://other.invalid/x>; rel=\"next\"\r\n";
    world.hub.fail("recursive=true", Fault::Status("200 OK", away.into()));
    world.fails(&[NAME], "not the answer of a model hub");
}

#[test]
fn two_pulls_at_once_end_right() {
    let world = World::new();
    // The first holds the lock while the second one waits.
    world.hub.fail(WEIGHTS, Fault::Slow(Duration::from_secs(2)));
    let both: Vec<_> = std::thread::scope(|scope| {
        let pulls = [0, 1].map(|_| scope.spawn(|| world.pull(&[NAME])));
        pulls.map(|pull| pull.join().unwrap()).into()
    });
    for ran in &both {
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    assert!(both.iter().any(|ran| ran.err.contains("another process downloads it; waiting")), "{both:?}");
    world.is_complete();
    assert_eq!(world.hub.requests(WEIGHTS).len(), 1);
}

#[test]
fn revisions_are_pinned() {
    let world = World::new();
    world.pull(&[NAME, "--revision", "v1"]).exits(0);
    assert_eq!(std::fs::read_to_string(world.repo().join("refs/v1")).unwrap(), COMMIT);
    assert!(!world.repo().join("refs/main").exists());
    let used = run(&mut world.command(&["model", "inspect", "--model", NAME])).exits(2);
    assert!(used.err.contains("pull it with"), "{used:?}");
    // Found by the tag and by the commit: the error is that of the family.
    for revision in ["v1", COMMIT] {
        let name = format!("{NAME}@{revision}");
        let used = run(&mut world.command(&["model", "inspect", "--model", &name])).exits(1);
        assert!(used.err.contains("unknown model type `tiny`"), "{used:?}");
    }
    let world = World::new();
    world.pull(&[&format!("{NAME}@{COMMIT}")]).exits(0);
    assert!(!world.repo().join("refs").exists());
    let world = World::new();
    let ran = world.pull(&[NAME, "--revision", "v2"]).exits(1);
    assert!(ran.err.contains("no such revision"), "{ran:?}");
}
