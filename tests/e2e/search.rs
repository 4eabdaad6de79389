//! `flamingo search`: finds videos by a text or by another video, with an index that encodes each version of a video once.

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::repository::root;

use crate::program::{Ran, command, mini, run, sample};

fn search(folder: &Path, arguments: &[&str]) -> Ran {
    let mut search = command();
    search.current_dir(folder).arg("search").args(arguments).args([
        "--json",
        "--index",
        "videos.index",
        "--model",
    ]);
    run(search.arg(mini()).arg("--text-tower").arg(root().join("models/text/all-MiniLM-L6-v2")))
}

fn names(ran: &Ran) -> Vec<String> {
    ran.reports()
        .iter()
        .map(|result| result["input"].as_str().unwrap().rsplit('/').next().unwrap().into())
        .collect()
}

/// Names and a caption of all sample clips.
fn captions() -> Vec<(String, String)> {
    let text = fs::read_to_string(sample("clips.jsonl")).unwrap();
    let clip = |line: &str| {
        let clip: Value = serde_json::from_str(line).unwrap();
        (clip["file"].as_str().unwrap().to_string(), clip["captions"][0].as_str().unwrap().to_string())
    };
    text.lines().map(clip).collect()
}

#[test]
fn texts_and_videos_find_videos() {
    let folder = tempfile::tempdir().unwrap();
    let clips = captions();
    fs::create_dir(folder.path().join("videos")).unwrap();
    for (file, _) in &clips {
        fs::copy(sample(file), folder.path().join("videos").join(file)).unwrap();
    }
    fs::write(folder.path().join("videos/broken.mp4"), "no video").unwrap();
    let ran = search(folder.path(), &["videos", "--query", &clips[0].1, "--top", "100"]).exits(1);
    assert!(ran.err.contains("broken.mp4"), "{ran:?}");
    assert_eq!(ran.reports().len(), clips.len());
    fs::remove_file(folder.path().join("videos/broken.mp4")).unwrap();

    // The index alone is enough, and a caption finds its clip among the first: by chance it is the first of eight once.
    let found = clips.iter().filter(|(file, caption)| {
        names(&search(folder.path(), &["--query", caption, "--top", "1"]).exits(0)) == [file.clone()]
    });
    let found = found.count();
    assert!(found >= clips.len() / 2, "{found} of {} captions found their clip", clips.len());

    let like = folder.path().join("videos").join(&clips[3].0).display().to_string();
    let results = search(folder.path(), &["--like", &like, "--top", "2"]).exits(0);
    assert_eq!(names(&results)[0], clips[3].0);
    assert!((results.reports()[0]["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{results:?}");

    // A changed file is encoded again, and windows are found separately: they are another index.
    let changed = folder.path().join("videos").join(&clips[0].0);
    fs::copy(sample(&clips[1].0), &changed).unwrap();
    let like = changed.display().to_string();
    let results = search(folder.path(), &["videos", "--like", &like, "--top", "2"]).exits(0);
    let mut nearest = names(&results);
    nearest.sort();
    assert_eq!(nearest, [clips[0].0.clone(), clips[1].0.clone()]);
    let windows =
        search(folder.path(), &["videos", "--like", &like, "--window", "2s", "--top", "100"]).exits(0);
    assert!(windows.reports().len() > clips.len(), "{windows:?}");
}

#[test]
fn a_search_that_cannot_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ran = search(folder.path(), &["--query", "a frog"]).exits(1);
    assert!(ran.err.contains("there is no video to search in"), "{ran:?}");
    fs::write(folder.path().join("videos.index"), "no index").unwrap();
    let ran = search(folder.path(), &["--query", "a frog"]).exits(1);
    assert!(ran.err.contains("the file is no index"), "{ran:?}");
    let clip = sample("00000.mp4").display().to_string();
    let ran = run(command().args(["search", &clip, "--query", "a frog"])).exits(2);
    assert!(ran.err.contains("has no joint space"), "{ran:?}");
    let ran = run(command().args(["search", &clip])).exits(2);
    assert!(ran.err.contains("--query"), "{ran:?}");
}
