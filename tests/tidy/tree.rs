//! The files of the project, as input of the rules.

use std::path::Path;

/// Text file: path from the root, with slashes, and text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// Folders of generated files.
const SKIPPED: [&str; 5] = [".git", ".venv", "target", "out", "__pycache__"];
const BINARY: [&str; 7] = ["safetensors", "gguf", "mp4", "webm", "png", "jpg", "gif"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/tidy lies in the repository")
}

/// Returns every text file below `folder`, sorted by path.
pub fn texts(folder: &str) -> Vec<Source> {
    let keep = |path: &String| !BINARY.contains(&extension(path));
    let read = |path: String| Some(Source { text: std::fs::read_to_string(root().join(&path)).ok()?, path });
    paths(folder).into_iter().filter(keep).filter_map(read).collect()
}

/// Returns the Rust files below `folders`.
pub fn rust(folders: &[&str]) -> Vec<Source> {
    folders.iter().flat_map(|folder| texts(folder)).filter(|s| extension(&s.path) == "rs").collect()
}

/// Returns the paths of all files below `folder` (the root: ""), from the root.
pub fn paths(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !SKIPPED.contains(&name.as_str()) => found.extend(paths(&path)),
            Ok(kind) if kind.is_file() && name != ".git" => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

pub fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}

impl Source {
    /// Returns `(number, line)` of the product code: without comments and without lines below `#[cfg(test)]`.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        lines.enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("")))
    }

    /// Returns its submodules outside tests, in order.
    pub fn modules(&self) -> Vec<&str> {
        let name = |line: &'_ str| -> Option<(usize, usize)> {
            let rest = line.trim().strip_suffix(';')?;
            let rest = rest.strip_prefix("pub ").or(rest.strip_prefix("pub(crate) ")).unwrap_or(rest);
            let name = rest.strip_prefix("mod ")?;
            let start = name.as_ptr() as usize - line.as_ptr() as usize;
            Some((start, start + name.len()))
        };
        self.code().filter_map(|(_, line)| name(line).map(|(from, to)| &line[from..to])).collect()
    }

    /// Returns `(line, name)` of every name that directly follows `head` (`crate::` or `super::`), also in `head{a, b::{c}}`.
    pub fn names_after(&self, head: &str) -> Vec<(usize, String)> {
        let code: String = self.code().flat_map(|(_, line)| [line, "\n"]).collect();
        let mut found = Vec::new();
        for (at, _) in code.match_indices(head) {
            if code[..at].ends_with([':', '_']) || code[..at].ends_with(char::is_alphanumeric) {
                continue; // `super::super::x`, `my_crate::x`
            }
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + head.len()..];
            let list = if rest.starts_with('{') { first_level(rest) } else { vec![rest] };
            found.extend(
                list.into_iter().map(|item| (line, identifier(item))).filter(|(_, name)| !name.is_empty()),
            );
        }
        found
    }
}

/// Returns the items of `{a, b::{c, d}, e}...`, each from its first letter to the end of the text.
fn first_level(text: &str) -> Vec<&str> {
    let (mut depth, mut items) = (0_usize, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (c == '{' || c == ',') {
            items.push(text[i + 1..].trim_start());
        }
    }
    items
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Returns whether `line` contains `word` as a whole word.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}
