//! Prompts: interleaved media and text -> token ids.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::language::Tokenizer;
use crate::model::config::is_default;

mod dialogue;

pub use dialogue::DialogueFormat;

/// Markers of a medium in a prompt's text. Both are equivalent.
const MEDIUM_MARKERS: [&str; 2] = ["<image>", "<video>"];
/// Marker of the end of a chunk (one medium and its text).
const END_OF_CHUNK_MARKER: &str = "<EOC>";
/// Marker of the token that begins an answer, in the formats of models that have one.
const ANSWER_MARKER: &str = "<ANSWER>";
/// Placeholder of the question in a prompt format.
pub(crate) const QUESTION: &str = "{question}";
/// Place of the text that is written on a medium.
pub(crate) const WRITTEN_TEXT: &str = "{text}";
/// Text in place of the question where a format has no prompt for a medium with text on it.
const WITH_TEXT: &str = "The text '{text}' is written on it. {question}";

/// A prompt: text and media in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    pieces: Vec<Piece>,
    /// Number of first pieces that form the prefix.
    prefix: usize,
}

/// Token ids of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptIds {
    /// All ids.
    pub ids: Vec<u32>,
    /// Number of first ids that form the prefix; 0: no prefix.
    pub prefix_len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Medium,
    EndOfChunk,
    Answer,
    /// A special token of the vocabulary, by its spelling.
    Special(String),
}

/// Markers and text of one medium in a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediumText {
    /// Number of markers: one, or one per frame.
    pub markers: usize,
    /// Text after the markers.
    pub text: String,
}

/// Token ids of media markers and ends of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    /// Token at the beginning of a prompt.
    pub begin: Option<u32>,
    /// Tokens that mark a medium. Exactly one of them is the media token of the model's media attention. Adjacent media share
    /// a token that both begins and ends the marker: IDEFICS' `<fake_token_around_image>`.
    pub media: Vec<u32>,
    /// Token that ends a chunk.
    pub end_of_chunk: u32,
    /// Token at the beginning of an answer: Otter's `<answer>`. Without it, the marker `<ANSWER>` of a prompt is text.
    pub answer: Option<u32>,
}

/// Prompt format of the tasks, with the markers of [`Prompt::parse`] and `{question}` for the question. The default is the
/// paper's (section 4.1.3 and figure 8 of its first version).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFormat {
    /// Prompt of a caption.
    pub caption: String,
    /// Prompt of a question.
    pub question: String,
    /// Prompt of a question about a medium with text on it, such as a meme, with `{text}` for the text. Without it, `question` with
    /// the text before the question.
    #[serde(skip_serializing_if = "is_question_about_meme")]
    pub question_with_text: Option<String>,
    /// Text between a prompt and its answer.
    pub before_answer: String,
    /// Text after the end of an example's chunk.
    #[serde(skip_serializing_if = "is_default")]
    pub after_example: String,
    /// Texts that end an answer: the model has begun the next example.
    pub keywords: Vec<String>,
    /// Answers of text-only examples, which show the form of a caption without a medium (the paper uses two).
    pub example_captions: Vec<String>,
    /// Questions and answers of text-only examples.
    pub example_answers: Vec<(String, String)>,
    /// Prompts of a conversation. Without them, its messages have the prompt of a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialogue: Option<DialogueFormat>,
    /// Spellings of special tokens in the prompts above, for a chat.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub special_tokens: Vec<String>,
}

/// Prompt of OpenFlamingo for the Hateful Memes challenge (arXiv 2308.01390, appendix), with any question.
const QUESTION_ABOUT_MEME: &str = "<image>is an image with: '{text}' written on it. {question} Answer:";

fn is_question_about_meme(prompt: &Option<String>) -> bool {
    prompt.as_deref() == Some(QUESTION_ABOUT_MEME)
}

impl Default for PromptFormat {
    fn default() -> Self {
        Self {
            caption: "<image>Output:".into(),
            question: "<image>Question: {question} Answer:".into(),
            question_with_text: Some(QUESTION_ABOUT_MEME.into()),
            before_answer: " ".into(),
            after_example: String::new(),
            keywords: ["Output:", "Question:", "Answer:"].map(String::from).into(),
            example_captions: Vec::new(),
            example_answers: Vec::new(),
            dialogue: None,
            special_tokens: Vec::new(),
        }
    }
}

impl Prompt {
    /// Parses a prompt in which `<image>` or `<video>` marks the place of each medium, `<EOC>` the end of a chunk and `<ANSWER>`
    /// the token that begins an answer.
    pub fn parse(text: &str) -> Self {
        let mut prompt = Self::default();
        let mut rest = text;
        while let Some((at, marker)) = first_marker(rest) {
            prompt = prompt.text(&rest[..at]);
            prompt.pieces.push(match marker {
                END_OF_CHUNK_MARKER => Piece::EndOfChunk,
                ANSWER_MARKER => Piece::Answer,
                _ => Piece::Medium,
            });
            rest = &rest[at + marker.len()..];
        }
        prompt.text(rest)
    }

    /// Appends text. Markers in it stay text.
    pub fn text(mut self, text: &str) -> Self {
        let prefix = self.prefix;
        match self.pieces[prefix..].last_mut() {
            _ if text.is_empty() => {}
            // Adjacent texts are tokenised as one.
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.into())),
        }
        self
    }

    /// Appends a medium.
    pub fn medium(mut self) -> Self {
        self.pieces.push(Piece::Medium);
        self
    }

    /// Appends the end of a chunk.
    pub fn end_of_chunk(mut self) -> Self {
        self.pieces.push(Piece::EndOfChunk);
        self
    }

    /// Appends a special token of the vocabulary.
    pub fn special(mut self, token: &str) -> Self {
        self.pieces.push(Piece::Special(token.into()));
        self
    }

    /// Appends trusted text, in which the spellings `special` are special tokens, and `medium` is a medium.
    pub fn trusted(mut self, text: &str, special: &[String], medium: &str) -> Self {
        let mut rest = text;
        let first = |rest: &str| {
            let spellings = special.iter().map(String::as_str).chain([medium]);
            let found = spellings.filter_map(|token| Some((rest.find(token)?, token)));
            // Of two spellings at one place, the longer one.
            found
                .min_by_key(|(at, token)| (*at, usize::MAX - token.len()))
                .map(|(at, token)| (at, token.len()))
        };
        while let Some((at, len)) = first(rest).filter(|(_, len)| *len > 0) {
            let token = &rest[at..at + len];
            self = self.text(&rest[..at]);
            self = if token == medium { self.medium() } else { self.special(token) };
            rest = &rest[at + len..];
        }
        self.text(rest)
    }

    /// Repeats the marker of each medium, and adds a text after it, as `describe` says for the i-th medium.
    pub fn describe_media(self, describe: impl Fn(usize) -> MediumText) -> Self {
        let (mut prompt, mut media) = (Self::default(), 0);
        for (i, piece) in self.pieces.into_iter().enumerate() {
            if i == self.prefix {
                prompt = prompt.end_prefix();
            }
            prompt = match piece {
                Piece::Text(text) => prompt.text(&text),
                Piece::Medium => {
                    let MediumText { markers, text } = describe(media);
                    media += 1;
                    (0..markers).fold(prompt, |prompt, _| prompt.medium()).text(&text)
                }
                other => {
                    prompt.pieces.push(other);
                    prompt
                }
            };
        }
        if self.prefix > 0 && prompt.prefix == 0 { prompt.end_prefix() } else { prompt }
    }

    /// Ends the prefix here: prompts with equal prefixes can share it. Call it after the end of a chunk only, where the
    /// tokenizer splits text anyway.
    pub fn end_prefix(mut self) -> Self {
        self.prefix = self.pieces.len();
        self
    }

    /// Appends another prompt.
    pub fn then(mut self, other: Prompt) -> Self {
        for piece in other.pieces {
            match piece {
                Piece::Text(text) => self = self.text(&text),
                other => self.pieces.push(other),
            }
        }
        self
    }

    /// Removes all media, as in the text-only examples of the paper's zero-shot prompt.
    pub fn without_media(self) -> Self {
        let is_kept = |piece: &Piece| *piece != Piece::Medium;
        let prefix = self.pieces[..self.prefix].iter().filter(|piece| is_kept(piece)).count();
        Self { pieces: self.pieces.into_iter().filter(is_kept).collect(), prefix }
    }

    /// Returns the number of media.
    pub fn media(&self) -> usize {
        self.pieces.iter().filter(|p| **p == Piece::Medium).count()
    }

    /// Encodes the prompt as token ids. Text cannot forge a medium or an end of chunk: it is never parsed for special
    /// tokens.
    ///
    /// # Errors
    /// The prompt has another number of media than `media`, or the tokenizer refuses the text.
    pub fn encode(&self, tokenizer: &Tokenizer, tokens: &PromptTokens, media: usize) -> Result<PromptIds> {
        if self.media() != media {
            let markers = self.media();
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        let mut ids: Vec<u32> = tokens.begin.into_iter().collect();
        let mut prefix_len = 0;
        for (i, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) if i == 0 && tokens.begin.is_some() => {
                    ids.extend(tokenizer.encode_first(text)?);
                }
                Piece::Text(text) => ids.extend(tokenizer.encode_plain(text)?),
                Piece::Medium => {
                    let adjacent = i > 0 && self.pieces[i - 1] == Piece::Medium;
                    ids.extend(tokens.marker(adjacent));
                }
                Piece::EndOfChunk => ids.push(tokens.end_of_chunk),
                Piece::Special(token) => ids.push(
                    tokenizer
                        .token_id(token)
                        .ok_or_else(|| Error::Prompt(format!("`{token}` is not in the vocabulary")))?,
                ),
                Piece::Answer => match tokens.answer {
                    Some(answer) => ids.push(answer),
                    None => ids.extend(tokenizer.encode_plain(ANSWER_MARKER)?),
                },
            }
            if i + 1 == self.prefix {
                prefix_len = ids.len();
            }
        }
        Ok(PromptIds { ids, prefix_len })
    }
}

impl Prompt {
    /// Encodes untrusted `text` that continues the prompt, as the tokenizer splits both together: a tokenizer that puts a space
    /// before a text does not put it in the middle of one.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_continuation(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        if let Some(Piece::Text(before)) = self.pieces.last() {
            let (alone, together) =
                (tokenizer.encode_plain(before)?, tokenizer.encode_plain(&format!("{before}{text}"))?);
            if let Some(rest) = together.strip_prefix(&alone[..]) {
                return Ok(rest.to_vec());
            }
        }
        tokenizer.encode_plain(text)
    }
}

impl PromptTokens {
    /// Returns the tokens that mark a medium. `adjacent`: directly after another medium.
    fn marker(&self, adjacent: bool) -> &[u32] {
        match self.media.split_first() {
            Some((first, rest)) if adjacent && rest.last() == Some(first) => rest,
            _ => &self.media,
        }
    }
}

impl PromptFormat {
    /// Checks the format.
    ///
    /// # Errors
    /// The description of the first mistake.
    pub fn check(&self) -> Result<(), String> {
        let message = self.dialogue.as_ref().map(|dialogue| ("dialogue.message", &dialogue.message));
        let with_text = self.question_with_text();
        let questions = [("caption", &self.caption), ("question", &self.question)].into_iter().chain(message);
        for (name, prompt) in questions.chain([("question_with_text", &with_text)]) {
            let media = self.parse(prompt).media();
            if media != 1 {
                return Err(format!("prompt.{name} has {media} media markers instead of one"));
            }
            if name != "caption" && !prompt.contains(QUESTION) {
                return Err(format!("prompt.{name} does not contain {QUESTION}"));
            }
        }
        if !with_text.contains(WRITTEN_TEXT) {
            return Err(format!("prompt.question_with_text does not contain {WRITTEN_TEXT}"));
        }
        let of_dialogue = self.dialogue.iter().flat_map(|dialogue| &dialogue.keywords);
        if self.keywords.iter().chain(of_dialogue).any(String::is_empty) {
            return Err("one of prompt.keywords is empty".into());
        }
        Ok(())
    }

    /// Returns the prompt of a question about a medium with text on it.
    pub(crate) fn question_with_text(&self) -> String {
        let none = || self.question.replace(QUESTION, WITH_TEXT);
        self.question_with_text.clone().unwrap_or_else(none)
    }

    /// Parses a part of this format, as [`Prompt::parse`] does, with its special tokens.
    pub fn parse(&self, text: &str) -> Prompt {
        let mut prompt = Prompt::default();
        for piece in Prompt::parse(text).pieces {
            match piece {
                Piece::Text(text) => prompt = prompt.trusted(&text, &self.special_tokens, MEDIUM_MARKERS[0]),
                other => prompt.pieces.push(other),
            }
        }
        prompt
    }

    /// Returns a prompt with its answer, as an example in a longer prompt.
    pub fn example(&self, prompt: Prompt, answer: &str) -> Prompt {
        prompt.text(&self.before_answer).text(answer).end_of_chunk().text(&self.after_example)
    }
}

fn first_marker(text: &str) -> Option<(usize, &'static str)> {
    let markers = MEDIUM_MARKERS.into_iter().chain([END_OF_CHUNK_MARKER, ANSWER_MARKER]);
    markers.filter_map(|marker| Some((text.find(marker)?, marker))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prompt: Prompt, expected: &[Piece]) {
        assert_eq!(prompt.pieces, expected);
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn media_get_markers_and_text() {
        let prompt = Prompt::parse("a<EOC>").end_prefix().then(Prompt::parse("<image>b<image>"));
        let described = prompt.describe_media(|i| MediumText { markers: i + 1, text: format!("[{i}]") });
        let expected =
            Prompt::parse("a<EOC>").end_prefix().then(Prompt::parse("<image>[0]b<image><image>[1]"));
        assert_eq!(described, expected);
        let whole = Prompt::parse("a<EOC>").end_prefix();
        assert_eq!(whole.clone().describe_media(|_| unreachable!()), whole);
    }

    #[test]
    fn format_spells_special_tokens() {
        let special_tokens = vec!["<|e|>".into(), "<|e|><|f|>".into()];
        let format = PromptFormat { special_tokens, ..PromptFormat::default() };
        check(
            format.parse("<|e|><image>a<|e|><|f|>"),
            &[Piece::Special("<|e|>".into()), Piece::Medium, text("a"), Piece::Special("<|e|><|f|>".into())],
        );
        check(Prompt::parse("<|e|>"), &[text("<|e|>")]);
    }

    #[test]
    fn parses_markers_of_media_and_chunks() {
        check(Prompt::parse(""), &[]);
        check(Prompt::parse("<image>Output:"), &[Piece::Medium, text("Output:")]);
        check(
            Prompt::parse("a<video>b <EOC><image><image>c"),
            &[
                text("a"),
                Piece::Medium,
                text("b "),
                Piece::EndOfChunk,
                Piece::Medium,
                Piece::Medium,
                text("c"),
            ],
        );
        check(Prompt::parse("a < image> <imag"), &[text("a < image> <imag")]);
    }
}
