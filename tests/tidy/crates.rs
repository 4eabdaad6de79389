//! Rules about dependencies between crates.

use super::tree::{Source, has_word, texts};
use super::{check, not_tidy, only};

#[test]
fn the_library_has_no_network_sql_queue_or_async() {
    const OUTSIDE: [&str; 16] = [
        "async-std",
        "aws-sdk-s3",
        "axum",
        "deadpool",
        "futures",
        "hf-hub",
        "hyper",
        "jobs",
        "lapin",
        "object_store",
        "redis",
        "reqwest",
        "rusqlite",
        "sqlx",
        "tokio",
        "ureq",
    ];
    let rule = |s: &[Source]| {
        let outside = |s: &Source| -> Vec<String> {
            let of = dependencies(s).into_iter().filter(|(_, name)| OUTSIDE.contains(&name.as_str()));
            of.map(|(n, name)| format!("{}:{n}: {name} is not allowed in the library", s.path)).collect()
        };
        s.iter().flat_map(outside).collect()
    };
    let broken = "[package]\n[dependencies]\nserde.workspace = true\ntokio = \"1\"\n[workspace.dependencies]\nsqlx = \"1\"";
    check(rule, &[("Cargo.toml", broken)], &["Cargo.toml:4: tokio"], &only("Cargo.toml"));
}

#[test]
fn jobs_depends_on_neither_video_nor_tensors() {
    const INSIDE: [&str; 7] =
        ["candle-core", "candle-nn", "ffmpeg-next", "flamingo", "image", "inference", "video-worker"];
    let rule = |s: &[Source]| {
        let inside = |s: &Source| -> Vec<String> {
            let of = dependencies(s).into_iter().filter(|(_, name)| INSIDE.contains(&name.as_str()));
            of.map(|(n, name)| format!("{}:{n}: {name} is not allowed in jobs", s.path)).collect()
        };
        s.iter().flat_map(inside).collect()
    };
    let broken = "[dependencies]\nsqlx.workspace = true\nflamingo = { path = \"../..\" }";
    let path = "workers/jobs/Cargo.toml";
    check(rule, &[(path, broken)], &["workers/jobs/Cargo.toml:3: flamingo"], &only(path));
}

#[test]
fn every_dependency_is_used() {
    let rule = |sources: &[Source]| {
        let mut complaints = Vec::new();
        for manifest in sources.iter().filter(|s| s.path.ends_with("Cargo.toml")) {
            let folder = manifest.path.trim_end_matches("Cargo.toml");
            // The root package shares its folder with the other packages.
            let places =
                ["src/", "examples/", "benches/", "build.rs"].map(|place| format!("{folder}{place}"));
            let own = |s: &&Source| match folder {
                "" => places.iter().any(|place| s.path.starts_with(place.as_str())),
                // The tests run the fuzz seeds.
                "tests/" => s.path.starts_with(folder) || s.path.starts_with("fuzz/src/"),
                _ => s.path.starts_with(folder),
            };
            let code: Vec<_> = sources.iter().filter(|s| s.path.ends_with(".rs")).filter(own).collect();
            for (n, name) in dependencies(manifest) {
                let word = name.replace('-', "_");
                if !code.iter().any(|s| s.text.lines().any(|line| names_crate(line, &word))) {
                    complaints.push(format!("{}:{n}: `{name}` is not used", manifest.path));
                }
            }
        }
        complaints
    };
    let broken = [
        (
            "Cargo.toml",
            "[dependencies]\nhalf = \"2\"\n[dev-dependencies]\nrand_distr = { path = \"\" }\ngemm.workspace = true",
        ),
        ("src/lib.rs", "use half::f16;\n// rand_distr\nlet gemm = 1;"),
        ("tests/a.rs", "use rand_distr::Normal;"),
    ];
    let real: Vec<_> =
        texts("").into_iter().filter(|s| s.path.ends_with("Cargo.toml") || s.path.ends_with(".rs")).collect();
    check(rule, &broken, &["Cargo.toml:4: `rand_distr`", "Cargo.toml:5: `gemm`"], &not_tidy(real));
}

fn names_crate(line: &str, name: &str) -> bool {
    let code = line.trim_start();
    has_word(code, name)
        && !code.starts_with("//")
        && (code.contains(&format!("{name}::")) || code.contains(&format!("use {name}")))
}

/// Returns `(line, name)` of all dependencies of a package.
fn dependencies(manifest: &Source) -> Vec<(usize, String)> {
    let (mut inside, mut found) = (false, Vec::new());
    for (n, line) in (1..).zip(manifest.text.lines().map(str::trim)) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies") && !table.starts_with("workspace");
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            found.extend((!name.is_empty()).then(|| (n, name.to_owned())));
        }
    }
    found
}

#[test]
fn every_package_uses_the_workspace_lints() {
    let rule = |s: &[Source]| -> Vec<String> {
        let free = |s: &&Source| !s.text.contains("[lints]\nworkspace = true");
        s.iter().filter(free).map(|s| format!("{}:1: has no [lints] workspace = true", s.path)).collect()
    };
    let real: Vec<_> = texts("").into_iter().filter(|s| s.path.ends_with("Cargo.toml")).collect();
    check(rule, &[("bench/Cargo.toml", "[lints]\n")], &["bench/Cargo.toml:1"], &real);
}
