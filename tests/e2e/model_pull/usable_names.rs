//! A pulled name is a model everywhere, also one that is joined of several repositories.

use super::*;

/// A hub with the untrained model of the tests.
fn untrained() -> World {
    let world = World::new();
    let mut config = read_json(&model().join("config.json"));
    config["language"]["file"] = smollm2().to_string_lossy().into();
    let adapters = std::fs::read(model().join("adapters.safetensors")).unwrap();
    world.hub.add(
        "tests/untrained",
        &[("config.json", config.to_string().as_bytes()), ("adapters.safetensors", &adapters)],
    );
    world
}

#[test]
fn a_pulled_name_is_a_model_everywhere() {
    let world = untrained();
    let named = ["--model", "tests/untrained"];
    let caption = |world: &World| {
        let mut caption = world.command(&["caption", "--json"]);
        caption.arg(clip("short")).args(named).args(QUICK);
        run(&mut caption)
    };
    let ran = caption(&world).exits(2);
    assert!(ran.err.contains("pull it with `flamingo model pull tests/untrained`"), "{ran:?}");
    world.pull(&["tests/untrained"]).exits(0);
    let report = caption(&world).exits(0).report();
    assert_eq!(report["model"]["name"], "tests/untrained", "{report}");
    let inspected = run(world.command(&["model", "inspect"]).args(named)).exits(0);
    assert!(inspected.out.starts_with("tests/untrained (flamingo)"), "{inspected:?}");

    // In a job, from the settings, and named by the job.
    let jobs = world.home.path().join("jobs.jsonl");
    let clip = clip("short");
    let job = format!(
        r#"{{"schema":"flamingo.job/1","job_id":"a","model":"tests/untrained","tasks":[{{"kind":"caption"}}],"input":{{"videos":[{:?}]}}}}"#,
        clip.display().to_string()
    );
    std::fs::write(&jobs, job).unwrap();
    let mut command = world.command(&["run", "jobs.jsonl", "--set", "model.path=tests/untrained"]);
    let ran = run(command.current_dir(world.home.path())).exits(0);
    assert!(ran.out.contains("1 of 1 succeeded"), "{ran:?}");
}

/// A checkpoint without language model and vision encoder: its directory names the three repositories by relative paths.
#[test]
fn a_checkpoint_is_joined_with_its_base_models() {
    let world = World::new();
    let name = "openflamingo/OpenFlamingo-3B-vitl-mpt1b";
    let base = ["anas-awadalla/mpt-1b-redpajama-200b", "openai/clip-vit-large-patch14"];
    world.hub.add(name, &[("README.md", b"card"), ("checkpoint.pt", b"checkpoint")]);
    world.hub.add(
        base[0],
        &[("config.json", CONFIG), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"language")],
    );
    world.hub.add(base[1], &[("config.json", CONFIG), ("model.safetensors", b"vision")]);
    // Letters may have another case.
    let ran = world.pull(&["OpenFlamingo/openflamingo-3b-vitl-mpt1b"]).exits(0);
    assert!(ran.err.contains(&format!("{name}: licence: code MIT; MPT base model Apache-2.0")), "{ran:?}");
    let folder = Path::new(ran.out.trim());
    let config = read_json(&folder.join("config.json"));
    let file = |key: &str, below: &str| {
        let path = Path::new(config[key].as_str().unwrap());
        assert!(path.is_relative(), "{config}");
        std::fs::read_to_string(folder.join(path).join(below)).unwrap()
    };
    assert_eq!((config["schema"].as_str(), config["name"].as_str()), (Some("open_flamingo/1"), Some(name)));
    assert_eq!(config["cross_attn_every_n_layers"], 1);
    let checkpoint = folder.join(config["checkpoint"].as_str().unwrap());
    assert_eq!(std::fs::read(checkpoint).unwrap(), b"checkpoint");
    assert_eq!(
        (file("language", "pytorch_model.bin"), file("vision", "model.safetensors")),
        ("language".into(), "vision".into())
    );
    assert_eq!(file("language", "tokenizer.json"), "{}");
    let record = read_json(&folder.join("pulled.json"));
    let repos: Vec<_> = record["repositories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repo| repo["repo"].as_str().unwrap())
        .collect();
    assert_eq!(repos, [name, base[0], base[1]]);
    let listed = run(&mut world.command(&["model", "list", "--pulled", "--json"])).exits(0).report();
    assert_eq!((listed["name"].as_str(), listed["path"].as_str()), (Some(name), Some(ran.out.trim())));

    // A language model that the user has.
    let own = tempfile::tempdir().unwrap();
    let ran = world.pull(&[name, "--language", &own.path().display().to_string()]).exits(0);
    let folder = Path::new(ran.out.trim());
    let config = read_json(&folder.join("config.json"));
    let language = folder.join(config["language"].as_str().unwrap()).canonicalize().unwrap();
    assert_eq!(language, own.path().canonicalize().unwrap());

    // One missing base repository: nothing is usable.
    let world = World::new();
    world.hub.add(name, &[("checkpoint.pt", b"checkpoint")]);
    let ran = world.pull(&[name]).exits(1);
    assert!(ran.err.contains(&format!("{}: no such repository", base[0])), "{ran:?}");
}

/// A repository without tokenizer: its directory has the files of both repositories.
#[test]
fn a_missing_tokenizer_comes_from_its_base_model() {
    let world = World::new();
    let (name, base) = ("luodian/OTTER-Video-LLaMA7B-DenseCaption", "luodian/llama-7b-hf");
    let index = ("pytorch_model.bin.index.json", b"{}" as &[u8]);
    world.hub.add(
        name,
        &[("config.json", CONFIG), ("pytorch_model-1.bin", b"shard"), index, ("final_weights.pt", b"x")],
    );
    world
        .hub
        .add(base, &[("config.json", b"{}"), ("tokenizer.json", b"[]"), ("pytorch_model-1.bin", b"other")]);
    let ran = world.pull(&[name]).exits(0);
    let folder = Path::new(ran.out.trim());
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
    assert_eq!(
        (read("config.json"), read("tokenizer.json"), read("pytorch_model-1.bin")),
        (CONFIG.into(), b"[]".into(), b"shard".into())
    );
    let names = [
        "config.json",
        "final_weights.pt",
        "pulled.json",
        "pytorch_model-1.bin",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
    ];
    assert_eq!(listing(folder), names);
}
