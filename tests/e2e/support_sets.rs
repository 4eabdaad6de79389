//! `flamingo support`: support sets by name and version.

use std::fs;
use std::path::Path;

use serde_json::json;
use support::clips::clip;

use crate::program::{Ran, command, run};

fn flamingo(folder: &Path, arguments: &[&str]) -> Ran {
    run(command().args(arguments).current_dir(folder))
}

/// Writes a support set of these outputs, next to its clip.
fn write(folder: &Path, file: &str, outputs: &[&str]) {
    fs::copy(clip("short"), folder.join("a.mp4")).unwrap();
    let line = |output: &&str| json!({ "media": "a.mp4", "output": output }).to_string() + "\n";
    fs::write(folder.join(file), outputs.iter().map(line).collect::<String>()).unwrap();
}

#[test]
fn sets_are_added_listed_shown_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "one.jsonl", &["owl", "frog", "owl"]);
    write(folder, "two.jsonl", &["owl"]);
    let add = |file: &str| flamingo(folder, &["support", "add", "birds", file]).exits(0);
    let (one, two) = (add("one.jsonl"), add("two.jsonl"));
    assert!(one.out.starts_with("birds@") && one.out != two.out, "{one:?}");
    let again = add("two.jsonl");
    assert_eq!(again.out, two.out);
    assert!(again.err.contains("was stored before") && !two.err.contains("was stored before"), "{again:?}");

    let listed = flamingo(folder, &["support", "list", "--json"]).exits(0).reports();
    let current: Vec<_> = listed.iter().map(|set| (&set["examples"], &set["current"])).collect();
    assert_eq!(current.len(), 2);
    assert!(current.contains(&(&json!(1), &json!(true))) && current.contains(&(&json!(3), &json!(false))));
    let text = flamingo(folder, &["support", "list"]).exits(0).out;
    assert!(text.contains(&format!("{}  3 examples, 2 outputs\n", one.out.trim())), "{text}");

    let shown = flamingo(folder, &["support", "show", one.out.trim(), "--json"]).exits(0);
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let path = folder.canonicalize().unwrap().join("a.mp4").display().to_string();
    assert_eq!(shown["examples"][1], json!({ "media": path, "output": "frog" }));
    let shown = flamingo(folder, &["support", "show", "birds"]).exits(0).out;
    assert_eq!(shown, format!("{}  {path}  owl\n", two.out));

    let refused = flamingo(folder, &["support", "remove", two.out.trim()]).exits(1);
    assert!(refused.err.contains("is the current version of birds, which has others"), "{refused:?}");
    flamingo(folder, &["support", "remove", one.out.trim()]).exits(0);
    flamingo(folder, &["support", "remove", "birds"]).exits(0);
    assert_eq!(flamingo(folder, &["support", "list"]).exits(0).out, "");
    let gone = flamingo(folder, &["support", "show", "birds"]).exits(1);
    assert!(gone.err.contains("support/birds: there is no such support set"), "{gone:?}");
}

/// The version does not depend on the file: a folder per class is the same set as its lines.
#[test]
fn a_folder_per_class_is_a_set() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for class in ["frog", "owl"] {
        fs::create_dir_all(folder.join("classes").join(class)).unwrap();
        fs::copy(clip("short"), folder.join("classes").join(class).join("a.mp4")).unwrap();
    }
    let line = |class: &str| {
        json!({ "output": class, "media": format!("classes/{class}/a.mp4") }).to_string() + "\n\n"
    };
    fs::write(folder.join("lines.jsonl"), ["frog", "owl"].map(line).concat()).unwrap();
    let add = |path: &str| flamingo(folder, &["support", "add", "classes", path]);
    assert_eq!(add("classes").exits(0).out, add("lines.jsonl").exits(0).out);
    fs::create_dir(folder.join("classes/empty")).unwrap();
    let ran = add("classes").exits(2);
    assert!(ran.err.contains("classes/empty: the class has no video or image"), "{ran:?}");
}

#[test]
fn sets_that_no_job_could_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "good.jsonl", &["owl"]);
    write(folder, "spaces.jsonl", &["an owl", "an  owl"]);
    fs::write(folder.join("missing.jsonl"), r#"{"media": "no.mp4", "output": "owl"}"#).unwrap();
    fs::write(folder.join("other.jsonl"), r#"{"media": "http://host/a.mp4", "output": "owl"}"#).unwrap();
    for (arguments, reason) in [
        (&["add", "birds", "missing.jsonl"][..], "example 1: no.mp4: No such file or directory"),
        (&["add", "birds", "other.jsonl"], "example 1: http://host/a.mp4"),
        (
            &["add", "birds", "spaces.jsonl"],
            "examples 1 and 2: the outputs \"an owl\" and \"an  owl\" differ only",
        ),
        (&["add", "a/b", "good.jsonl"], "has 1 to 64 letters, digits"),
        (&["show", "birds@12"], "has 64 hexadecimal digits"),
        (&["add", "birds", "good.jsonl", "--set", "store.url=memory://"], "store.url is memory://"),
        (
            &["add", "birds", "good.jsonl", "--set", "inputs.allow=/no/such/folder"],
            "not within the allowed inputs",
        ),
    ] {
        let ran = flamingo(folder, &[&["support"], arguments].concat()).exits(2);
        assert!(ran.err.contains(reason), "{reason}: {ran:?}");
    }
    assert!(!folder.join("results/support/birds").exists());
}
