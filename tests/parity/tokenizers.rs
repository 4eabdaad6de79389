//! Token ids of small tokenizers of the kinds that language models have, equal to transformers' (`golden/generate_tokenizers.py`).

use flamingo::language::Tokenizer;
use serde_json::Value;
use support::golden;

const KINDS: [&str; 3] = ["neox", "llama", "opt"];

fn cases() -> Value {
    let text = std::fs::read_to_string(golden::folder().join("tokenizers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(kind: &str) -> Tokenizer {
    Tokenizer::from_folder(&golden::folder().join("tokenizers").join(kind)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_equal_transformers() {
    for kind in KINDS {
        let (golden, tokenizer) = (&cases()[kind], load(kind));
        assert_eq!(tokenizer.vocabulary() as u64, golden["vocabulary"].as_u64().unwrap(), "{kind}");
        for case in golden["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{kind}: encode({text:?})");
            let plain = tokenizer.encode_plain(text).unwrap();
            assert_eq!(plain, ids(&case["plain"]), "{kind}: encode_plain({text:?})");
        }
    }
}

/// Tokens that a checkpoint adds follow the vocabulary in order; one that is there keeps its id.
#[test]
fn added_tokens_equal_transformers() {
    for kind in KINDS {
        let golden = &cases()[kind];
        let added = ["<|endofchunk|>", "<image>", golden["pad"].as_str().unwrap()];
        let tokenizer = load(kind).add_special_tokens(&added).unwrap();
        assert_eq!(tokenizer.vocabulary() as u64, golden["added_vocabulary"].as_u64().unwrap(), "{kind}");
        let special = added.map(|token| tokenizer.token_id(token).unwrap());
        for case in golden["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["added"]), "{kind}: encode({text:?})");
            let plain = tokenizer.encode_plain(text).unwrap();
            assert!(!plain.iter().any(|id| special.contains(id)), "{kind}: encode_plain({text:?})");
        }
    }
}

/// Text of a user never becomes a special token, whatever it spells.
#[test]
fn plain_text_yields_no_special_token() {
    for kind in KINDS {
        let tokenizer = load(kind).add_special_tokens(&["<|endofchunk|>", "<image>", "<PAD>"]).unwrap();
        let named =
            ["<|endofchunk|>", "<image>", "<PAD>", "</s>", "<s>", "<pad>", "<|endoftext|>", "<|padding|>"];
        for text in named {
            for text in [text.to_owned(), format!("a{text}b"), format!(" {text} {text}")] {
                let plain = tokenizer.encode_plain(&text).unwrap();
                assert!(plain.len() > 1, "{kind}: encode_plain({text:?}) is {plain:?}");
                assert_eq!(
                    tokenizer.decode(&plain, true).unwrap().trim_start(),
                    text.trim_start(),
                    "{kind}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn broken_vocabulary_files_are_refused() {
    let check = |change: &dyn Fn(&std::path::Path), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden::folder().join("tokenizers/opt")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        change(folder.path());
        let error = Tokenizer::from_folder(folder.path()).err().expect("an error").to_string();
        assert!(error.contains(expected), "{error}");
    };
    let write = |name: &'static str, text: &'static str| {
        move |folder: &std::path::Path| std::fs::write(folder.join(name), text).unwrap()
    };
    check(&write("vocab.json", "[]"), "vocab.json: the vocabulary is not an object of ids");
    check(&write("vocab.json", r#"{"a": 0, "b": 2}"#), "the 2 ids are not the numbers from 0");
    check(&write("merges.txt", "#version: 0.2\nab\n"), "merges.txt: a line is not a pair of tokens");
    check(&write("merges.txt", "\u{120}zz qqq\n"), "tokenizer:");
    check(&write("added_tokens.json", r#"{"<x>": 7}"#), "added_tokens.json: token `<x>` has id 7");
    let without = |folder: &std::path::Path| std::fs::remove_file(folder.join("merges.txt")).unwrap();
    check(&without, "merges.txt: No such file");
}
