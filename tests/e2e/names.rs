//! Names as people have them: odd, hidden and foreign files of a folder or a bucket never stop the others, and whatever is left
//! out is counted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use support::clips::clip;
use support::tiny_s3::TinyS3;

use crate::program::{Ran, command, quick, read_json, run};

/// Hidden files, side files and files of other kinds, with the reason for which each is left out.
const LEFT_OUT: [(&str, &str); 13] = [
    ("._dusk.mov", "hidden"),
    ("harbour/.Spotlight-V100", "hidden"),
    (".thumbnails/dusk.webm", "hidden"),
    ("__MACOSX/dusk.mov", "side_file"),
    ("harbour/@eaDir/dusk.mov/SYNOPHOTO_THUMB_M.jpg", "side_file"),
    ("#recycle/dusk.mov", "side_file"),
    ("dusk.mov.part", "side_file"),
    ("dusk.mov.crdownload", "side_file"),
    ("dusk.mov.partial", "side_file"),
    ("harbour/Thumbs.db", "side_file"),
    ("desktop.ini", "side_file"),
    ("readme.txt", "not_matched"),
    ("harbour/dusk.srt", "not_matched"),
];

/// Good files with extensions in several cases.
const GOOD: [&str; 3] = ["dusk.MP4", "harbour/boats.Mp4", "harbour/fog.mp4"];

fn place(folder: &Path, name: &[u8]) {
    let path = folder.join(OsStr::from_bytes(name));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(clip("short"), path).unwrap();
}

fn job(id: &str, input: &Value) -> String {
    let job = json!({
        "schema": "flamingo.job/1",
        "job_id": id,
        "tasks": [{ "kind": "caption" }],
        "input": input,
        "sampling": { "uniform": { "n": 1 } },
        "generation": { "strategy": { "kind": "greedy" }, "max_new_tokens": 2 },
    });
    format!("{job}\n")
}

/// Results of a job that `flamingo run` has run.
struct Results {
    ran: Ran,
    manifest: Value,
    /// Lines of `results.jsonl` and `errors.jsonl`.
    succeeded: Vec<Value>,
    failed: Vec<Value>,
}

/// Runs a job in a folder of its own.
fn run_job(input: &Value, env: &[(&str, String)]) -> Results {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jobs.jsonl"), job("job", input)).unwrap();
    let ran = run(command()
        .args(["run", "jobs.jsonl"])
        .current_dir(folder.path())
        .envs(env.iter().cloned())
        .env("FLAMINGO__INPUTS__PAGE", "2"));
    let results = folder.path().join("results/job");
    let lines = |name: &str| {
        let text = std::fs::read_to_string(results.join(name)).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (succeeded, failed) = (lines("results.jsonl"), lines("errors.jsonl"));
    Results { manifest: read_json(&results.join("manifest.json")), succeeded, failed, ran }
}

fn urls(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["input"]["url"].as_str().unwrap()).collect()
}

#[track_caller]
fn check_counts(results: &Results, succeeded: usize, failed: usize, skipped: Value) {
    let counts = &results.manifest["counts"];
    let found = (&counts["succeeded"], &counts["failed"], &counts["total"]);
    let expected = (json!(succeeded), json!(failed), json!(succeeded + failed));
    assert_eq!(found, (&expected.0, &expected.1, &expected.2), "{:?}", results.ran);
    assert_eq!((results.succeeded.len(), results.failed.len()), (succeeded, failed));
    assert_eq!(results.manifest["skipped"], skipped);
}

fn folder_of_all() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in GOOD.into_iter().chain(LEFT_OUT.map(|(name, _)| name)) {
        place(folder.path(), name.as_bytes());
    }
    folder
}

fn counts() -> Value {
    let number = |wanted: &str| LEFT_OUT.iter().filter(|(_, reason)| *reason == wanted).count();
    json!({
        "hidden": number("hidden"), "side_file": number("side_file"), "not_matched": number("not_matched"),
    })
}

#[test]
fn a_folder_on_the_command_line_is_read_without_hidden_and_side_files() {
    let folder = folder_of_all();
    let all = folder.path().display().to_string();
    let ran = quick(&["caption", &all, "--json", "--frames", "1"]).exits(0);
    let mut answered: Vec<_> =
        ran.reports().iter().map(|report| report["input"][0].as_str().unwrap().to_owned()).collect();
    answered.sort();
    assert_eq!(answered, GOOD.map(|name| format!("{all}/{name}")));
    let summary = "13 files left out: 3 hidden, 8 side_file, 2 not_matched";
    let printed = ran.err.lines().filter(|line| *line == format!("{summary} (--verbose names them)"));
    assert_eq!(printed.count(), 1, "{ran:?}");

    let ran = quick(&["caption", &all, "--frames", "1", "--verbose"]).exits(0);
    for (name, reason) in LEFT_OUT {
        let line = format!("left out ({reason}): {all}/{name}");
        assert!(ran.err.lines().any(|found| found == line), "{line} is not in {ran:?}");
    }
    assert!(ran.err.lines().any(|line| line == summary), "{ran:?}");

    // A named file is never left out.
    quick(&["caption", &format!("{all}/._dusk.mov"), "--frames", "1"]).exits(0);
}

#[test]
fn a_prefix_is_read_without_hidden_and_side_files() {
    let folder = folder_of_all();
    let input = json!({ "prefix": { "url": folder.path(), "glob": "**/*.{MP4,mov,webm,jpg}" } });
    let results = run_job(&input, &[]);
    check_counts(&results, 3, 0, counts());
    let summary = "job: 13 files left out: 3 hidden, 8 side_file, 2 not_matched";
    assert!(results.ran.err.lines().any(|line| line.starts_with(summary)), "{:?}", results.ran);

    let objects = GOOD.into_iter().chain(LEFT_OUT.map(|(name, _)| name));
    let bytes = std::fs::read(clip("short")).unwrap();
    let objects = objects.map(|name| (format!("in/{name}"), bytes.clone())).chain([
        ("in/harbour/".to_owned(), Vec::new()),
        ("in/empty/".to_owned(), Vec::new()),
        ("in/old_$folder$".to_owned(), Vec::new()),
        ("in/".to_owned(), Vec::new()),
    ]);
    let server = TinyS3::start(objects);
    let input = json!({ "prefix": { "url": "s3://bucket/in/", "glob": "**/*.{MP4,mov,webm,jpg}" } });
    let results = run_job(&input, &server.env());
    let mut expected = counts();
    // The marker of the prefix itself is not in it.
    expected["folder_marker"] = json!(3);
    check_counts(&results, 3, 0, expected);
    assert_eq!(urls(&results.succeeded), GOOD.map(|name| format!("s3://bucket/in/{name}")));
}

/// Three names of each kind. The names are no text, so the test of the file system is one of bytes.
#[test]
fn an_odd_file_name_is_an_error_of_its_own() {
    for odd in [
        [&b"red\x1b[31m.mp4"[..], b"two\rlines.mp4", b"harbour\x7f/a.mp4"],
        [b"ci\xe8l.mp4", b"\xff\xfe.mp4", b"h\xe9l\xe8ne/boat.mp4"],
        [b"one\ntwo\nthree.mp4", b"\t.mp4", b"a\x0b/b.mp4"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        GOOD.iter().for_each(|name| place(folder.path(), name.as_bytes()));
        odd.iter().for_each(|name| place(folder.path(), name));
        let results = run_job(&json!({ "prefix": { "url": folder.path() } }), &[]);
        check_counts(&results, 3, 3, json!({}));
        assert_eq!(results.manifest["status"], "partially_succeeded");
        for line in &results.failed {
            assert_eq!(line["error"]["code"], "bad_name", "{line}");
        }
        // The URL of the error names the very file: it can be read by it.
        let again = run_job(&json!({ "videos": urls(&results.failed) }), &[]);
        check_counts(&again, 3, 0, json!({}));
        // The command line reads every name.
        let ran = quick(&["caption", folder.path().to_str().unwrap(), "--frames", "1"]).exits(0);
        assert_eq!(ran.out.lines().filter(|line| !line.starts_with(' ')).count(), 6, "{ran:?}");
    }
}

#[test]
fn an_odd_key_is_an_error_of_its_own() {
    let bytes = std::fs::read(clip("short")).unwrap();
    for odd in [
        ["in//first.mp4", "in/harbour//second.mp4", "in/harbour///third.mp4"],
        ["in/./first.mp4", "in/harbour/../second.mp4", "in/harbour/./third.mp4"],
        ["in/one\ntwo.mp4", "in/red\u{1b}.mp4", "in/tab\there.mp4"],
        ["in/ends in a slash/", "in/harbour/dusk.mp4/", "in/z/"],
    ] {
        let keys = GOOD.iter().map(|name| format!("in/{name}")).chain(odd.map(str::to_owned));
        let server = TinyS3::start(keys.map(|key| (key, bytes.clone())));
        let results = run_job(&json!({ "prefix": { "url": "s3://bucket/in" } }), &server.env());
        check_counts(&results, 3, 3, json!({}));
        let mut expected = odd.map(|key| format!("s3://bucket/{key}"));
        expected.sort_unstable();
        let mut refused = urls(&results.failed);
        refused.sort_unstable();
        assert_eq!(refused, expected);
        for line in &results.failed {
            assert_eq!(line["error"]["code"], "bad_name", "{line}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_read() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), b"fog.mp4");
    let line = |id: &str| json!({ "custom_id": id, "video": folder.path().join("fog.mp4") }).to_string();
    for (n, lines) in
        [line("first"), format!("{}\r\n\r\n{}\r\n", line("α"), line("second")), format!("\n{}", line("b"))]
            .iter()
            .enumerate()
    {
        let manifest = folder.path().join(format!("list-{n}.jsonl"));
        std::fs::write(&manifest, format!("\u{feff}{lines}")).unwrap();
        let expected = lines.matches("custom_id").count();
        check_counts(&run_job(&json!({ "manifest": manifest }), &[]), expected, 0, json!({}));
        // A file of jobs.
        let jobs = folder.path().join("jobs.jsonl");
        let job = job(&format!("job-{n}"), &json!({ "manifest": manifest }));
        std::fs::write(&jobs, format!("\u{feff}{job}")).unwrap();
        let ran = run(command().args(["run", "jobs.jsonl"]).current_dir(folder.path())).exits(0);
        assert!(ran.out.contains(&format!("{expected} of {expected} succeeded")), "{ran:?}");
    }
}

#[test]
fn file_urls_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["old harbour/50% fog.mp4", "d\u{e4}mmerung.mp4", "boats#2?.mp4"] {
        place(folder.path(), name.as_bytes());
    }
    let root = folder.path().display();
    let videos = [
        format!("file://{root}/old%20harbour/50%25%20fog.mp4"),
        format!("file://localhost{root}/d%C3%A4mmerung.mp4"),
        format!("FILE://{root}/boats%232%3F.mp4"),
    ];
    check_counts(&run_job(&json!({ "videos": videos }), &[]), 3, 0, json!({}));
    let input = json!({ "prefix": { "url": format!("file://localhost{root}/old%20harbour") } });
    check_counts(&run_job(&input, &[]), 1, 0, json!({}));
    for video in &videos {
        quick(&["caption", video, "--frames", "1"]).exits(0);
        run(command().args(["frames", video, "--frames", "1"])).exits(0);
    }
    for url in ["file://nas/old%20harbour/fog.mp4", "file://fog.mp4", "file://127.0.0.1/fog.mp4"] {
        let ran = quick(&["caption", url]).exits(2);
        assert!(ran.err.contains("only files of this machine are read"), "{ran:?}");
        let jobs = folder.path().join("jobs.jsonl");
        std::fs::write(&jobs, job("other-host", &json!({ "video": url }))).unwrap();
        let ran = run(command().args(["run", "jobs.jsonl"]).current_dir(folder.path())).exits(2);
        assert!(ran.err.contains("only files of this machine are read"), "{ran:?}");
    }
}

#[test]
fn links_out_of_a_prefix_are_followed_where_the_operator_allows() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (set, blobs) = (folder.path().join("set"), cache.path().join("blobs"));
    GOOD.iter().for_each(|name| place(&set, name.as_bytes()));
    for blob in ["3f2a", "day/one.mp4", "day/two.mp4", "9c01"] {
        place(&blobs, blob.as_bytes());
    }
    // As a cache of a hub has it: a link to a blob without an extension, one to a folder, one to another link.
    symlink(blobs.join("3f2a"), set.join("linked.mp4")).unwrap();
    symlink(blobs.join("day"), set.join("day")).unwrap();
    symlink(blobs.join("9c01"), blobs.join("alias")).unwrap();
    symlink(blobs.join("alias"), set.join("twice.mp4")).unwrap();
    // Links within the folder, to nothing, and in a circle.
    symlink("fog.mp4", set.join("harbour/same.mp4")).unwrap();
    symlink("nothing", set.join("nothing.mp4")).unwrap();
    symlink(&set, set.join("harbour/circle")).unwrap();
    let input = json!({ "prefix": { "url": set } });

    let allow = |places: &[&Path]| {
        let places: Vec<_> = places.iter().map(|place| place.to_str().unwrap()).collect();
        [("FLAMINGO__INPUTS__ALLOW", places.join(","))]
    };
    let results = run_job(&input, &allow(&[&set]));
    check_counts(&results, 4, 1, json!({ "link_outside": 3, "link_loop": 1 }));
    assert_eq!(results.failed[0]["error"]["code"], "not_found", "{:?}", results.failed);
    let summary = "job: 4 files left out: 3 link_outside, 1 link_loop";
    assert!(results.ran.err.lines().any(|line| line.starts_with(summary)), "{:?}", results.ran);

    for allowed in [&allow(&[&set, &blobs])[..], &[]] {
        let results = run_job(&input, allowed);
        check_counts(&results, 8, 1, json!({ "link_loop": 1 }));
    }
    let ran = quick(&["caption", set.to_str().unwrap(), "--frames", "1"]).exits(1);
    assert!(ran.err.contains("1 of 9 inputs failed") && ran.err.contains("1 link_loop"), "{ran:?}");
}
