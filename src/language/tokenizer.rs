//! Tokenizer: text <-> token ids, from a `tokenizer.json` or from the metadata of a GGUF file.

use std::collections::HashSet;
use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, ModelWrapper, SplitDelimiterBehavior};

use super::gguf::Gguf;
use super::vocabulary_files::byte_level_tokenizer;
use crate::error::{Error, Result};

/// Tokenizer of the language model.
pub struct Tokenizer {
    parsing: tokenizers::Tokenizer,
    /// The same vocabulary, without parsing of special tokens.
    plain: tokenizers::Tokenizer,
    /// Ids that untrusted text never gets: the special tokens, without that of unknown characters.
    special: HashSet<u32>,
    bos: Option<u32>,
    /// Spelling of a token that begins a text and is tokenised together with it.
    spelled_begin: Option<String>,
    eos: Vec<u32>,
    vocabulary: usize,
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`. It does not state which tokens begin and end a text: add them with
    /// [`with_text_bounds`](Self::with_text_bounds).
    ///
    /// # Errors
    /// The file is missing or malformed.
    pub fn from_json(path: &Path) -> Result<Self> {
        let mut parsing = tokenizers::Tokenizer::from_file(path)
            .map_err(|e| Error::Tokenizer(format!("{}: {e}", path.display())))?;
        // Some files carry truncation or padding settings of the training that saved them.
        parsing.with_truncation(None).map_err(refused)?.with_padding(None);
        Ok(Self::new(parsing))
    }

    /// Reads the tokenizer of a folder: `tokenizer.json`, else `vocab.json` and `merges.txt`. The folder states elsewhere which
    /// tokens begin and end a text: add them with [`with_text_bounds`](Self::with_text_bounds).
    ///
    /// # Errors
    /// There is no tokenizer, or a file is malformed.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let json = folder.join("tokenizer.json");
        if !json.exists() && folder.join("vocab.json").exists() {
            return Ok(Self::new(byte_level_tokenizer(folder)?));
        }
        Self::from_json(&json)
    }

    /// Builds the tokenizer that the metadata of a GGUF file describes.
    ///
    /// # Errors
    /// A key is missing or malformed, or names a kind of tokenizer that this build does not support.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let model = gguf.string("tokenizer.ggml.model").map_err(|e| gguf.error(e))?;
        if model != "gpt2" {
            return Err(gguf.error(format!("unknown tokenizer model `{model}`")));
        }
        let pre = gguf.string("tokenizer.ggml.pre").map_err(|e| gguf.error(e))?;
        let pre_tokenizer = pre_tokenizer(pre)
            .ok_or_else(|| gguf.error(format!("unknown pre-tokenizer `{pre}` in `tokenizer.ggml.pre`")))?;
        let tokens = gguf.strings("tokenizer.ggml.tokens").map_err(|e| gguf.error(e))?;
        let mut parsing = tokenizers::Tokenizer::new(byte_pairs(gguf, &tokens, pre == "llama-bpe")?);
        parsing.with_pre_tokenizer(Some(pre_tokenizer));
        if pre == "qwen2" {
            parsing.with_normalizer(Some(NFC)).map_err(refused)?;
        }
        parsing.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
        let added = added_tokens(gguf, &tokens).map_err(|e| gguf.error(e))?;
        parsing.add_tokens(added).map_err(refused)?;
        let end = |key| gguf_id(gguf, key, tokens.len()).map_err(|e| gguf.error(e));
        let (bos, eos) = (end("tokenizer.ggml.bos_token_id")?, end("tokenizer.ggml.eos_token_id")?);
        Ok(Self::new(parsing).with_text_bounds(bos, eos.into_iter().collect()))
    }

    /// Sets the tokens that begin and end a text.
    pub fn with_text_bounds(self, bos: Option<u32>, eos: Vec<u32>) -> Self {
        Self { bos, eos, ..self }
    }

    fn new(parsing: tokenizers::Tokenizer) -> Self {
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        let vocabulary = parsing.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let unknown = match parsing.get_model() {
            ModelWrapper::BPE(model) => model.unk_token.as_deref(),
            ModelWrapper::WordLevel(model) => Some(&*model.unk_token),
            ModelWrapper::WordPiece(model) => Some(&*model.unk_token),
            ModelWrapper::Unigram(_) => None,
        };
        let added = parsing.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special && Some(&*token.content) != unknown);
        let special = special.map(|(id, _)| *id).collect();
        Self { parsing, plain, special, bos: None, spelled_begin: None, eos: Vec::new(), vocabulary }
    }

    /// Adds special tokens, such as the media markers of a checkpoint. A token that the vocabulary has keeps its id; the others
    /// get the next ids in order.
    ///
    /// # Errors
    /// The tokenizer refuses a token.
    pub fn add_special_tokens(self, tokens: &[&str]) -> Result<Self> {
        let Self { mut parsing, bos, eos, .. } = self;
        let added: Vec<AddedToken> = tokens.iter().map(|&token| AddedToken::from(token, true)).collect();
        parsing.add_special_tokens(added).map_err(refused)?;
        Ok(Self::new(parsing).with_text_bounds(bos, eos))
    }

    /// Encodes trusted `text`. Parses special tokens in it and adds none. Drops bytes that the vocabulary lacks (control
    /// characters, usually), as the model's authors do.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.parsing.encode_fast(text, false).map_err(refused)?.get_ids().to_vec())
    }

    /// Encodes untrusted `text`: a special token written in it stays text.
    ///
    /// # Errors
    /// The tokenizer refuses the text, or its vocabulary makes a special token of plain text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.plain.encode_fast(text, false).map_err(refused)?.get_ids().to_vec();
        match ids.iter().find(|id| self.special.contains(id)) {
            Some(id) => Err(Error::Tokenizer(format!("plain text becomes the special token {id}"))),
            None => Ok(ids),
        }
    }

    /// Declares that the authors of the model spell `begin` before the text and tokenise both together. It matters for
    /// LLaMA's files of 2023: there a text after `<s>` begins without the space that other texts get.
    pub fn with_spelled_begin(self, begin: &str) -> Self {
        Self { spelled_begin: Some(begin.into()), ..self }
    }

    /// Encodes untrusted `text` that directly follows the token at the beginning of a prompt. As
    /// [`encode_plain`](Self::encode_plain), unless the beginning is spelled.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_first(&self, text: &str) -> Result<Vec<u32>> {
        let plain = self.encode_plain(text)?;
        let Some(begin) = &self.spelled_begin else { return Ok(plain) };
        // A text that spells a special token stays plain.
        let (alone, together) = (self.encode(text)?, self.encode(&format!("{begin}{text}"))?);
        match together.split_first() {
            Some((first, rest)) if alone == plain && Some(*first) == self.token_id(begin) => {
                Ok(rest.to_vec())
            }
            _ => Ok(plain),
        }
    }

    /// Decodes `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.parsing.id_to_token(id).is_none()) {
            return Err(Error::Tokenizer(format!("id {id} is not in the vocabulary of {}", self.vocabulary)));
        }
        self.parsing.decode(ids, skip_special).map_err(refused)
    }

    /// Returns the id of the token with this exact spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    /// Returns the spelling of the token with this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.parsing.id_to_token(id)
    }

    /// Returns the spellings of all special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> Vec<String> {
        let mut tokens: Vec<_> = self.parsing.get_added_tokens_decoder().into_iter().collect();
        tokens.retain(|(_, token)| token.special);
        tokens.sort_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token.content).collect()
    }

    /// Returns the token that begins a text, if the model has one. [`encode`](Self::encode) does not add it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns the token that the tokenizer's own template puts before a text, if it has one.
    pub fn template_begin(&self) -> Option<u32> {
        let ids = self.parsing.encode_fast("", true).ok()?;
        ids.get_ids().first().copied().filter(|&first| self.bos == Some(first))
    }

    /// Returns the tokens that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Returns the greatest id plus one.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// Returns the pre-tokenizer for llama.cpp's `tokenizer.ggml.pre`, as the models' own `tokenizer.json` files define it.
fn pre_tokenizer(pre: &str) -> Option<PreTokenizerWrapper> {
    const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let gpt_2 = ByteLevel::new(false, true, true);
    let split = |pattern: String| {
        let pattern = SplitPattern::Regex(pattern);
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a valid pattern");
        Some(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    };
    match pre {
        "gpt-2" => Some(gpt_2.into()),
        "smollm" => Some(Sequence::new(vec![Digits::new(true).into(), gpt_2.into()]).into()),
        "llama-bpe" => split(LLAMA_3.into()),
        // Digits are single.
        "qwen2" => split(LLAMA_3.replace("{1,3}", "")),
        _ => None,
    }
}

fn byte_pairs(gguf: &Gguf, tokens: &[&str], ignore_merges: bool) -> Result<BPE> {
    let ids = tokens.iter().zip(0u32..).map(|(token, id)| (token.to_string(), id));
    let vocabulary: Vocab = ids.collect();
    if vocabulary.len() != tokens.len() {
        let twice = tokens.len() - vocabulary.len();
        return Err(gguf.error(format!("`tokenizer.ggml.tokens` holds {twice} tokens twice")));
    }
    let merges = gguf.strings("tokenizer.ggml.merges").map_err(|e| gguf.error(e))?;
    let pair = |merge: &&str| {
        let (left, right) = merge.split_once(' ')?;
        Some((left.to_string(), right.to_string()))
    };
    let merges = merges.iter().map(pair).collect::<Option<Vec<_>>>();
    let merges =
        merges.ok_or_else(|| gguf.error("`tokenizer.ggml.merges` holds a merge of less than two".into()))?;
    let builder = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(ignore_merges);
    builder.build().map_err(|e| gguf.error(format!("tokenizer: {e}")))
}

/// Returns the tokens that are matched in the text before it is split: control tokens (special) and user-defined ones.
fn added_tokens(gguf: &Gguf, tokens: &[&str]) -> Result<Vec<AddedToken>, String> {
    const UNKNOWN: i64 = 2;
    const CONTROL: i64 = 3;
    const USER_DEFINED: i64 = 4;
    let kinds = gguf.numbers("tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return Err(format!("{} token types for {} tokens", kinds.len(), tokens.len()));
    }
    let added = |(token, kind): (&&str, i64)| match kind {
        UNKNOWN | CONTROL => Some(AddedToken::from(*token, true)),
        USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
        _ => None,
    };
    Ok(tokens.iter().zip(kinds).filter_map(added).collect())
}

fn gguf_id(gguf: &Gguf, key: &str, vocabulary: usize) -> Result<Option<u32>, String> {
    match gguf.optional_size(key)? {
        Some(id) if id >= vocabulary => Err(format!("`{key}` is {id}, beyond the {vocabulary} tokens")),
        id => Ok(id.map(|id| id as u32)),
    }
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}
