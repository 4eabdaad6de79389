//! Plain words: names, comments and documents say what a thing is in the words of its field.

use std::collections::BTreeSet;

use super::tree::{Source, extension, texts};
use super::{check, ours};

/// Words that no identifier contains.
const NAMES: &[&str] = &[
    "anew", "bell", "bells", "beside", "bury", "buried", "doom", "doomed", "heir", "insist", "look",
    "looked", "looking", "looks", "lure", "news", "nobody", "rung", "seen", "somebody", "stranger", "told",
    "toll", "turn", "turns", "unfit", "verdict", "verdicts", "wall", "whoever",
];

/// Words that no comment and no document contains, outside of code in backquotes.
const PROSE: &[&str] = &[
    "anew",
    "anybody",
    "bell",
    "bells",
    "bury",
    "buried",
    "buries",
    "doom",
    "doomed",
    "lure",
    "nobody",
    "rung",
    "seen",
    "somebody",
    "stranger",
    "strangers",
    "toll",
    "unfit",
    "verdict",
    "verdicts",
    "whoever",
];

/// Words that no doc comment begins with.
const BEGINNINGS: &[&str] = &["How", "Nobody", "That", "What", "Where", "Who", "Whoever", "Whose"];

/// Path (or the beginning of one), word, and the reason for which it stands there.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("bench/decode/", "wall", "wall time, as opposed to processor time"),
    ("src/model/media_attention.rs", "seen", "media markers that a cursor has passed"),
    ("workers/video-worker/src/http/metrics/", "wall", "old label of a metric, kept for one version"),
];

fn allowed(path: &str, word: &str) -> bool {
    ALLOWED.iter().any(|(place, name, _)| path.starts_with(place) && *name == word)
}

#[test]
fn names_and_comments_use_plain_words() {
    let broken = [
        (
            "src/a.rs",
            "fn ring_the_bell() {}\nstruct LookedAt;\nlet s = \"the bell\"; // a belly, a `bell`\nlet outlook = 'n';\n",
        ),
        (
            "src/b.rs",
            "//! What is done.\n//! How.\n\n/// Returns what is there.\n/// Nobody else does.\nfn f() {}\n/// Who\n",
        ),
        (
            "src/c.rs",
            "let a: &'a str = r#\"nobody\n\"bell\"\"#;\n// nobody knows\nlet bell = '\"'; // anew\n",
        ),
    ];
    let expected = [
        "src/a.rs:1: `bell` in `ring_the_bell`",
        "src/a.rs:2: `looked` in `LookedAt`",
        "src/b.rs:1: a doc comment begins with `What`",
        "src/b.rs:5: `nobody` in a comment",
        "src/b.rs:7: a doc comment begins with `Who`",
        "src/c.rs:3: `nobody` in a comment",
        "src/c.rs:4: `anew` in a comment",
        "src/c.rs:4: `bell` in `bell`",
    ];
    check(in_rust, &broken, &expected, &ours());
}

#[test]
fn documents_use_plain_words() {
    let text = "# A title\n\nNobody knows `anew`.\n\n```\nbell\n```\n\nThe bell.\n";
    let expected = ["README.md:3: `nobody`", "README.md:9: `bell`"];
    let documents = texts("").into_iter().filter(|s| extension(&s.path) == "md").collect::<Vec<_>>();
    check(in_markdown, &[("README.md", text)], &expected, &documents);
}

#[test]
fn exceptions_are_few_and_have_reasons() {
    assert!(ALLOWED.len() <= 30, "{} exceptions, at most 30 are allowed", ALLOWED.len());
    let sources = ours();
    for (place, word, reason) in ALLOWED {
        assert!(reason.len() > 10, "{place}: `{word}` has no reason");
        let used = sources.iter().filter(|s| s.path.starts_with(place)).any(|s| {
            let (code, comments) = split(&s.text);
            code.iter().chain(&comments).any(|(_, text)| words(text).iter().any(|(_, w)| w == word))
        });
        assert!(used, "{place}: `{word}` is not there any more");
    }
}

fn in_rust(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let (code, comments) = split(&source.text);
        let mut found = BTreeSet::new();
        for (line, text) in code {
            for (name, word) in words(&text) {
                if NAMES.contains(&word.as_str()) && !allowed(&source.path, &word) {
                    found.insert((line, format!("`{word}` in `{name}`")));
                }
            }
        }
        let mut doc_above = false;
        for (line, text) in source.text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
            let doc = text.strip_prefix("///").or(text.strip_prefix("//!"));
            let first = doc.filter(|_| !doc_above).map(str::trim).unwrap_or_default();
            doc_above = doc.is_some();
            let word = first.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            if BEGINNINGS.contains(&word) {
                found.insert((line, format!("a doc comment begins with `{word}`")));
            }
        }
        for (line, text) in comments {
            for word in prose(&text).filter(|word| !allowed(&source.path, word)) {
                found.insert((line, format!("`{word}` in a comment")));
            }
        }
        complaints.extend(found.into_iter().map(|(line, what)| format!("{}:{line}: {what}", source.path)));
    }
    complaints
}

fn in_markdown(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let mut fenced = false;
        for (i, line) in source.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced {
                let words = prose(line).filter(|word| !allowed(&source.path, word));
                complaints.extend(words.map(|word| format!("{}:{}: `{word}`", source.path, i + 1)));
            }
        }
    }
    complaints
}

/// The words of [`PROSE`] in a line of text, without what stands in backquotes.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let outside: Vec<&str> = text.split('`').step_by(2).collect();
    let words = outside.join(" ").to_lowercase();
    let words: Vec<String> = words.split(|c: char| !c.is_alphabetic()).map(str::to_owned).collect();
    words.into_iter().filter(|word| PROSE.contains(&word.as_str()))
}

/// The identifiers of a piece of code and their words: `(LookedAt, looked)`, `(LookedAt, at)`.
fn words(code: &str) -> Vec<(&str, String)> {
    let names = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for name in names {
        for part in name.split('_') {
            let mut word = String::new();
            let mut last_is_small = false;
            for c in part.chars() {
                if c.is_uppercase() && last_is_small {
                    found.push((name, std::mem::take(&mut word)));
                }
                last_is_small = c.is_lowercase() || c.is_numeric();
                word.extend(c.to_lowercase());
            }
            found.push((name, word));
        }
    }
    found
}

/// Lines with their numbers.
type NumberedLines = Vec<(usize, String)>;

/// `(line, text)` of all code without its string and character literals, and of all comments.
fn split(text: &str) -> (NumberedLines, NumberedLines) {
    let (mut code, mut comments) = (vec![(1, String::new())], Vec::new());
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            let comment = rest.lines().next().unwrap_or_default();
            comments.push((line, comment.trim_start_matches(['/', '!']).to_owned()));
            comment.len()
        } else if let Some(length) = literal(rest) {
            // A literal separates what stands before and after it.
            code.last_mut().expect("there is a line").1.push(' ');
            length
        } else {
            code.last_mut().expect("there is a line").1.push(c);
            // A name that ends with r or b is no beginning of a literal.
            let name = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            if name > 1 {
                let (_, line) = code.last_mut().expect("there is a line");
                line.push_str(&rest[c.len_utf8()..name]);
            }
            name.max(c.len_utf8())
        };
        let lines = rest[..length].matches('\n').count();
        if lines > 0 {
            line += lines;
            code.push((line, String::new()));
        }
        rest = &rest[length..];
    }
    (code, comments)
}

/// The length of the string or character literal that `text` begins with.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix);
        rest.is_some_and(|rest| {
            rest.starts_with(['"', '\'']) || prefix.ends_with('r') && rest.starts_with("#")
        })
    })?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let body = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + length);
    }
    let quote = rest.chars().next()?;
    if quote == '\'' {
        // 'a is a lifetime, 'a' a character.
        let mut chars = rest[1..].chars();
        let first = chars.next()?;
        if first != '\\' && chars.next() != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            _ if c == quote && !escaped => return Some(prefix.len() + at + 1),
            _ => escaped = false,
        }
    }
    Some(text.len())
}
