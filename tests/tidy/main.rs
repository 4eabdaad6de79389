//! Rules of ARCHITECTURE.md that a program can check.
//!
//! A rule is a function from files to complaints (`file:line: reason`). Every test first applies its rule to a broken
//! example, to prove that the rule can fail, and then to the project.

mod calls;
mod crates;
mod tree;
mod words;

use tree::{Source, extension, has_word, paths, root, rust, texts};

/// Asserts that the rule gives exactly the complaints that begin with `expected` for `broken`, and none for `real`.
fn check(
    rule: impl Fn(&[Source]) -> Vec<String>,
    broken: &[(&str, &str)],
    expected: &[&str],
    real: &[Source],
) {
    let source = |&(path, text): &(&str, &str)| Source { path: path.into(), text: text.into() };
    let found = rule(&broken.iter().map(source).collect::<Vec<_>>());
    let as_expected =
        found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(
        as_expected,
        "the rule has other complaints about its example: {found:#?}, expected {expected:#?}"
    );
    assert!(!real.is_empty(), "the rule applies to no file");
    let complaints = rule(real);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Returns a complaint for each line of code that `wrong` gives a reason for.
fn lines(sources: &[Source], wrong: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let of = |s: &Source| -> Vec<String> {
        let complaint = |(n, line): (usize, &str)| Some(format!("{}:{n}: {}", s.path, wrong(s, line)?));
        s.code().filter_map(complaint).collect()
    };
    sources.iter().flat_map(of).collect()
}

fn under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || place.ends_with('/') && path.starts_with(place))
}

// ---- reading order is dependency order ----

#[test]
fn a_module_uses_only_modules_above_it() {
    check(
        order,
        &[
            ("src/lib.rs", "mod a;\nmod b;\nmod c;\npub use c::Late;\n"),
            ("src/a.rs", "// crate::b\nuse crate::{a::X, b::{c, D}};\nfn f() { crate::Late }\n"),
            ("src/b.rs", "use crate::a::X;\nmod one;\nmod two;\n"),
            ("src/b/one.rs", "use super::{Mine, two::Y};\n#[cfg(test)]\nmod tests { use crate::c::Z; }\n"),
            ("src/b/two.rs", "use super::one::Y;\nuse super::super::c::Z;\n"),
        ],
        &[
            "src/a.rs:2: uses crate::b, which is below",
            "src/a.rs:3: uses crate::c, which",
            "src/b/one.rs:1: uses super::two",
        ],
        &rust(&["src"]),
    );
}

fn order(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for parent in sources {
        let modules = parent.modules();
        let folder = parent.path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
        let head = if parent.path == "src/lib.rs" { "crate::" } else { "super::" };
        for (place, module) in modules.iter().enumerate() {
            let file = [format!("{folder}/{module}.rs"), format!("{folder}/{module}/mod.rs")];
            let inside = format!("{folder}/{module}/");
            // `crate::` means the same at any depth, `super::` only in the module's own file.
            let own =
                |s: &&Source| file.contains(&s.path) || head == "crate::" && s.path.starts_with(&inside);
            for source in sources.iter().filter(own).filter(|s| !s.path.ends_with("/tests.rs")) {
                for (line, name) in source.names_after(head) {
                    let name = exported_from(parent, &name).unwrap_or(name);
                    if modules.iter().position(|m| *m == name).is_some_and(|other| other > place) {
                        complaints.push(format!("{}:{line}: uses {head}{name}, which is below", source.path));
                    }
                }
            }
        }
    }
    complaints.sort();
    complaints
}

/// Maps `Error` to `error` with `pub use error::{Error, Result};` in the root of the library.
fn exported_from(parent: &Source, name: &str) -> Option<String> {
    let of = |(_, line): (usize, &str)| {
        let (module, names) = line.trim().strip_prefix("pub use ")?.split_once("::")?;
        has_word(names, name).then(|| module.to_owned())
    };
    parent.code().find_map(of)
}

#[test]
fn rustfmt_keeps_the_reading_order() {
    let rule = |s: &[Source]| -> Vec<String> {
        let kept = |s: &&Source| !s.text.lines().any(|line| line == "reorder_modules = false");
        s.iter().filter(kept).map(|s| format!("{}:1: does not say reorder_modules = false", s.path)).collect()
    };
    check(rule, &[("rustfmt.toml", "")], &["rustfmt.toml:1:"], &only("rustfmt.toml"));
}

// ---- size and names ----

#[test]
fn no_file_is_longer_than_600_lines() {
    let rule = |s: &[Source]| -> Vec<String> {
        let long = |s: &&Source| s.text.lines().count() > 600;
        s.iter().filter(long).map(|s| format!("{}:601: longer than 600 lines", s.path)).collect()
    };
    check(rule, &[("src/a.rs", &"\n".repeat(601))], &["src/a.rs:601"], &ours());
}

#[test]
fn module_names_have_a_meaning() {
    const VAGUE: [&str; 8] = ["common", "util", "utils", "helper", "helpers", "manager", "misc", "base"];
    let rule = |s: &[Source]| -> Vec<String> {
        let said = |s: &Source| {
            let name = VAGUE
                .into_iter()
                .find(|e| s.path.trim_end_matches(".rs").split('/').any(|part| part == *e))?;
            Some(format!("{}:1: `{name}` has no meaning", s.path))
        };
        let files = s.iter().filter_map(said);
        let inline = lines(s, |_, line| {
            let name = VAGUE.into_iter().find(|e| has_word(line, &format!("mod {e}")))?;
            Some(format!("`{name}` has no meaning"))
        });
        files.chain(inline).collect()
    };
    let broken = [("src/helpers/a.rs", ""), ("src/b.rs", "\nmod utils {\n")];
    check(rule, &broken, &["src/helpers/a.rs:1: `helpers`", "src/b.rs:2: `utils`"], &ours());
}

#[test]
fn no_todo_is_left() {
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!"));
    let rule = |s: &[Source]| {
        lines(s, |_, line| words.iter().find(|w| line.contains(w.as_str())).map(|w| format!("`{w}` is left")))
    };
    let line = format!("\n{}(1)", words[2]);
    check(rule, &[("src/a.rs", &line)], &["src/a.rs:2: `dbg!"], &not_tidy(ours()));
}

// ---- data ----

#[test]
fn every_golden_has_a_test_and_a_generator() {
    let listing = paths("tests/parity/golden").join("\n");
    let rule = |s: &[Source]| {
        let (lists, files): (Vec<&Source>, Vec<&Source>) = s.iter().partition(|s| s.path == "listing");
        let mut goldens: Vec<&str> = lists
            .iter()
            .flat_map(|l| l.text.lines())
            .filter_map(|p| p.strip_prefix("tests/parity/golden/"))
            .collect();
        goldens.retain(|p| extension(p) != "py" && !p.starts_with("requirements") && !p.ends_with(".md"));
        // A folder is one golden; a file is called by its name, with or without what follows the dot.
        goldens.iter_mut().for_each(|p| *p = p.split(['/', '.']).next().unwrap_or(p));
        goldens.dedup();
        let missing = |name: &&str, kind: &str| {
            !files.iter().any(|s| extension(&s.path) == kind && has_word(&s.text, name))
        };
        let complaint = |name: &str, what: &str| format!("tests/parity/golden/{name}: {what}");
        let unread = goldens.iter().filter(|g| missing(g, "rs")).map(|g| complaint(g, "no test reads it"));
        let unmade = goldens.iter().filter(|g| missing(g, "py")).map(|g| complaint(g, "no script makes it"));
        unread.chain(unmade).collect()
    };
    let broken = [
        (
            "listing",
            "tests/parity/golden/a.safetensors\ntests/parity/golden/b/config.json\ntests/parity/golden/c.txt",
        ),
        ("tests/parity/x.rs", r#"Golden::load("a"); folder().join("b");"#),
        ("tests/parity/golden/make.py", r#"save("a.safetensors"); open("c.txt")"#),
    ];
    let expected = ["tests/parity/golden/c: no test", "tests/parity/golden/b: no script"];
    let mut real = not_tidy(texts("tests"));
    real.push(Source { path: "listing".into(), text: listing });
    check(rule, &broken, &expected, &real);
}

#[test]
fn samples_are_small_and_described() {
    let described = only("samples/README.md");
    let mut total = 0;
    for path in paths("samples").iter().filter(|path| !path.ends_with(".md")) {
        total += std::fs::metadata(root().join(path)).map_or(0, |m| m.len());
        let name = path.trim_start_matches("samples/");
        assert!(described[0].text.contains(name), "samples/README.md:1: does not describe {name}");
    }
    assert!((1..1_000_000).contains(&total), "samples:1: {total} bytes together, at most 1 MB is allowed");
}

// ---- every file ----

#[test]
fn no_path_of_a_home_folder() {
    let places = ["home", "root", "work", "Users"].map(|place| format!("/{place}/"));
    let rule = |sources: &[Source]| -> Vec<String> {
        let starts = |line: &str, place: &str| {
            line.match_indices(place)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || ".}~_-".contains(c)))
        };
        let of = |s: &Source| -> Vec<String> {
            let bad = s.text.lines().enumerate().filter(|(_, line)| places.iter().any(|p| starts(line, p)));
            bad.map(|(i, _)| format!("{}:{}: a path of a home folder", s.path, i + 1)).collect()
        };
        sources.iter().flat_map(of).collect()
    };
    let bad = format!("a/home/b\nopen(\"{}ann/model\")", places[0]);
    check(rule, &[("scripts/a.sh", &bad)], &["scripts/a.sh:2: a path"], &texts(""));
}

#[test]
fn paths_in_architecture_exist() {
    const FOLDERS: [&str; 10] = [
        "src/",
        "workers/",
        "tests/",
        "bench/",
        "scripts/",
        "samples/",
        "models/",
        "docs/",
        "examples/",
        "fuzz/",
    ];
    let rule = |sources: &[Source]| -> Vec<String> {
        let of = |s: &Source| -> Vec<String> {
            let mut complaints = Vec::new();
            for (i, line) in s.text.lines().enumerate() {
                let quoted = line.split('`').skip(1).step_by(2);
                for path in quoted.filter(|q| {
                    FOLDERS.iter().any(|folder| q.starts_with(folder)) && !q.contains(['*', '{', ' '])
                }) {
                    if !root().join(path).exists() {
                        complaints.push(format!("{}:{}: `{path}` does not exist", s.path, i + 1));
                    }
                }
            }
            complaints
        };
        sources.iter().flat_map(of).collect()
    };
    let broken = [("ARCHITECTURE.md", "`src/lib.rs`\nsee `src/nowhere.rs` for `src/{a,b}.rs`")];
    check(rule, &broken, &["ARCHITECTURE.md:2: `src/nowhere.rs`"], &only("ARCHITECTURE.md"));
}

// ---- sets of files ----

fn ours() -> Vec<Source> {
    rust(&["src", "workers", "tests", "bench", "examples", "fuzz"])
}

fn only(path: &str) -> Vec<Source> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    vec![Source { path: path.into(), text }]
}

/// Removes the files of this package, which contain the broken examples.
fn not_tidy(mut sources: Vec<Source>) -> Vec<Source> {
    sources.retain(|s| !s.path.starts_with("tests/tidy/"));
    sources
}
