//! Checkpoints in their original layout, pulled from a hub by name: every command takes the name, and the self-test passes.

use std::path::Path;
use std::process::Command;

use support::clips::clip;
use support::repository::root;
use support::tiny_hub::TinyHub;

use crate::program::{QUICK, binary, run};

/// Files below a folder of the goldens, with their paths from there.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            found.push((name, std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Pulls `name` from a hub that serves folders of the goldens, and uses it by its name.
fn check(name: &str, repos: &[(&str, &str)]) {
    let (hub, home) = (TinyHub::start(), tempfile::tempdir().unwrap());
    for (repo, folder) in repos {
        let files = files(&root().join("tests/parity/golden").join(folder));
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        hub.add(repo, &files);
    }
    let flamingo = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).envs(hub.env(home.path())).env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
        command
    };
    run(&mut flamingo(&["model", "pull", name])).exits(0);
    let named = ["--model", name];
    let headers = run(flamingo(&["model", "inspect", "--headers"]).args(named)).exits(0);
    assert!(headers.out.contains("cross-attention") && headers.out.contains("vision encoder"), "{headers:?}");
    let inspected = run(flamingo(&["model", "inspect"]).args(named)).exits(0);
    assert!(inspected.out.starts_with(&format!("{name} (")), "{inspected:?}");
    let checked = run(flamingo(&["model", "check"]).args(named));
    assert_eq!((checked.code, checked.out.matches("ok  ").count()), (Some(0), 5), "{checked:?}");
    let captioned = run(flamingo(&["caption", "--json"]).arg(clip("short")).args(named).args(QUICK)).exits(0);
    assert!(captioned.err.contains(&format!("note: {name}: licence: ")), "{captioned:?}");
    let report = captioned.report();
    assert_eq!(report["model"]["name"], name, "{report}");
}

#[test]
fn idefics_in_shards() {
    check("HuggingFaceM4/idefics-9b", &[("HuggingFaceM4/idefics-9b", "idefics_base")]);
}

#[test]
fn open_flamingo_with_its_base_models() {
    for (name, golden, language) in [
        (
            "openflamingo/OpenFlamingo-3B-vitl-mpt1b",
            "open_flamingo_mpt",
            "anas-awadalla/mpt-1b-redpajama-200b",
        ),
        (
            "openflamingo/OpenFlamingo-4B-vitl-rpj3b",
            "open_flamingo_neox",
            "togethercomputer/RedPajama-INCITE-Base-3B-v1",
        ),
    ] {
        let base = format!("{golden}/language");
        check(
            name,
            &[(name, golden), (language, &base), ("openai/clip-vit-large-patch14", "clip/open_clip")],
        );
    }
}

#[test]
fn llama_vision() {
    let name = "meta-llama/Llama-3.2-11B-Vision-Instruct";
    check(name, &[(name, "tiny_mllama")]);
}

#[test]
fn otter_with_the_tokenizer_of_its_language_model() {
    let name = "luodian/OTTER-Video-LLaMA7B-DenseCaption";
    check(name, &[(name, "otter_video"), ("luodian/llama-7b-hf", "otter_image")]);
}
