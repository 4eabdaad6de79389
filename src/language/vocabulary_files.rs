//! Byte-level tokenizer of GPT-2's layout: `vocab.json` and `merges.txt`, as OPT has it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::hugging_face::{read_json, read_text};
use crate::error::{Error, Result};

/// Reads the tokenizer of a folder. Its special tokens are those of `special_tokens_map.json` and `tokenizer_config.json`; the
/// tokens of `added_tokens.json` follow the vocabulary.
///
/// # Errors
/// A file is missing or malformed, or an added token does not follow the vocabulary.
pub(super) fn byte_level_tokenizer(folder: &Path) -> Result<tokenizers::Tokenizer> {
    let path = folder.join("vocab.json");
    let error = |reason: String| Error::Config { path: path.clone(), reason };
    let json = read_json(&path)?;
    let entry = |(token, id): (&String, &Value)| Some((token.clone(), u32::try_from(id.as_u64()?).ok()?));
    let vocabulary = json.as_object().and_then(|map| map.iter().map(entry).collect::<Option<Vocab>>());
    let vocabulary = vocabulary.ok_or_else(|| error("the vocabulary is not an object of ids".into()))?;
    let mut ids: Vec<u32> = vocabulary.values().copied().collect();
    ids.sort_unstable();
    if !ids.iter().copied().eq(0..ids.len() as u32) {
        return Err(error(format!("the {} ids are not the numbers from 0", ids.len())));
    }
    let merges = merges(&folder.join("merges.txt"))?;
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build();
    let mut tokenizer = tokenizers::Tokenizer::new(model.map_err(|e| error(format!("tokenizer: {e}")))?);
    let config = optional_json(&folder.join("tokenizer_config.json"))?;
    let space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(space, true, true)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
    add_tokens(&mut tokenizer, folder, &config)?;
    Ok(tokenizer)
}

fn merges(path: &Path) -> Result<Vec<(String, String)>> {
    let text = read_text(path)?;
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
    let pair = |line: &str| {
        let (left, right) = line.split_once(' ')?;
        Some((left.to_owned(), right.to_owned()))
    };
    lines
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Config { path: path.into(), reason: "a line is not a pair of tokens".into() })
}

fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, folder: &Path, config: &Value) -> Result<()> {
    let path = folder.join("added_tokens.json");
    let refused = |reason: String| Error::Config { path: path.clone(), reason };
    let json = optional_json(&path)?;
    let added: BTreeMap<u64, &str> = json
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(token, id)| Some((id.as_u64()?, &**token)))
        .collect();
    let special = special_tokens(&optional_json(&folder.join("special_tokens_map.json"))?);
    let special = [special, special_tokens(config)].concat();
    for (id, token) in added {
        let is_special = special.iter().any(|special| special == token);
        let token = AddedToken::from(token, is_special).normalized(false);
        tokenizer.add_tokens([token.clone()]).map_err(|e| refused(e.to_string()))?;
        match tokenizer.token_to_id(&token.content) {
            Some(found) if u64::from(found) == id => {}
            found => {
                return Err(refused(format!("token `{}` has id {id}, expected {found:?}", token.content)));
            }
        }
    }
    let special = special.iter().map(|token| AddedToken::from(&**token, true));
    tokenizer.add_special_tokens(special).map_err(|e| refused(e.to_string()))?;
    Ok(())
}

/// Returns the special tokens that a description names.
fn special_tokens(json: &Value) -> Vec<String> {
    const KEYS: [&str; 5] = ["bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens"];
    let text = |value: &Value| {
        let token = value.as_str().or_else(|| value.get("content")?.as_str());
        token.map(str::to_owned)
    };
    let of_key = |key| match json.get(key) {
        Some(Value::Array(tokens)) => tokens.iter().filter_map(text).collect(),
        Some(token) => text(token).into_iter().collect::<Vec<_>>(),
        None => Vec::new(),
    };
    KEYS.into_iter().flat_map(of_key).collect()
}

fn optional_json(path: &Path) -> Result<Value> {
    if path.exists() { read_json(path) } else { Ok(Value::Null) }
}
