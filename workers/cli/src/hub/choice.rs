//! Choice of the files that a model needs: descriptions, tokenizer, and one format of the weights.

use super::listing::RemoteFile;

/// Small files of a model, without those of the tokenizer.
const DESCRIPTIONS: &[&str] = &[
    "config.json",
    "open_clip_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "LICENSE*",
    "USE_POLICY.md",
];

/// Files of a tokenizer.
pub const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Forms of weights, the preferred one first: safetensors are read without copies, and a pickle is not trusted.
const WEIGHTS: &[&[&str]] = &[
    &["model.safetensors"],
    &["model.safetensors.index.json", "model-*.safetensors"],
    &["*.safetensors"],
    &["pytorch_model.bin"],
    &["pytorch_model.bin.index.json", "pytorch_model-*.bin"],
    &["open_clip_pytorch_model.bin"],
    &["*.gguf"],
    &["*.pt"],
];

/// Chooses the files that `patterns` name, or without patterns the descriptions and the preferred form of the weights. A
/// pattern has at most one star. Files in folders are chosen by patterns only.
pub fn choose(files: &[RemoteFile], patterns: Option<&[String]>) -> Vec<RemoteFile> {
    let all = |patterns: &[&str]| -> Vec<RemoteFile> {
        let named = |file: &&RemoteFile| patterns.iter().any(|pattern| matches(pattern, &file.path));
        files.iter().filter(named).cloned().collect()
    };
    if let Some(patterns) = patterns {
        return all(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut chosen = all(&[DESCRIPTIONS, TOKENIZER].concat());
    // An index without shards is no form of the weights.
    let has_weights = |found: &Vec<RemoteFile>| found.iter().any(|file| !file.path.ends_with(".json"));
    let weights = WEIGHTS.iter().map(|patterns| all(patterns)).find(has_weights);
    chosen.extend(weights.unwrap_or_default());
    chosen
}

/// Whether a path matches a pattern; the star stands for any text without a slash.
pub fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, tail)) => {
            let middle = path.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
            middle.is_some_and(|middle| !middle.contains('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::Hash;
    use super::*;

    #[test]
    fn chooses_one_form_of_the_weights() {
        let check = |present: &[&str], expected: &[&str]| {
            let file =
                |path: &&str| RemoteFile { path: (*path).into(), size: 1, hash: Hash::Git(String::new()) };
            let files: Vec<_> = present.iter().map(file).collect();
            let chosen: Vec<_> = choose(&files, None).into_iter().map(|file| file.path).collect();
            assert_eq!(chosen, expected, "{present:?}");
        };
        check(
            &["README.md", "config.json", "flax_model.msgpack", "model.safetensors", "pytorch_model.bin"],
            &["config.json", "model.safetensors"],
        );
        check(
            &[
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "original/consolidated.00.pth",
                "pytorch_model.bin",
                "LICENSE.txt",
                "modeling.py",
            ],
            &[
                "LICENSE.txt",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        );
        check(
            &["pytorch_model-1.bin", "pytorch_model.bin.index.json", "training_args.bin", "final_weights.pt"],
            &["pytorch_model-1.bin", "pytorch_model.bin.index.json"],
        );
        check(&["checkpoint.pt", "model.safetensors.index.json"], &["checkpoint.pt"]);
    }

    #[test]
    fn patterns_have_one_star() {
        for (pattern, path, expected) in [
            ("a.pt", "a.pt", true),
            ("*.pt", "a.pt", true),
            ("*.pt", "x/a.pt", false),
            ("x/*.pt", "x/a.pt", true),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
