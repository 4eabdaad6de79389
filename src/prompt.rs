//! Prompts: interleaved media and text -> token ids.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::language::Tokenizer;

/// Markers of a medium in a prompt's text. Both are equivalent.
const MEDIUM_MARKERS: [&str; 2] = ["<image>", "<video>"];
/// Marker of the end of a chunk (one medium and its text).
const END_OF_CHUNK_MARKER: &str = "<EOC>";
/// Placeholder of the question in a prompt format.
const QUESTION: &str = "{question}";

/// A prompt: text and media in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Medium,
    EndOfChunk,
}

/// Token ids of media markers and ends of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    /// Token at the beginning of a prompt.
    pub begin: Option<u32>,
    /// Token that marks a medium.
    pub media: u32,
    /// Token that ends a chunk.
    pub end_of_chunk: u32,
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
    /// Text between a prompt and its answer.
    pub before_answer: String,
    /// Texts that end an answer: the model has begun the next example.
    pub keywords: Vec<String>,
    /// Answers of text-only examples, which show the form of a caption without a medium (the paper uses two).
    pub example_captions: Vec<String>,
    /// Questions and answers of text-only examples.
    pub example_answers: Vec<(String, String)>,
}

impl Default for PromptFormat {
    fn default() -> Self {
        Self {
            caption: "<image>Output:".into(),
            question: "<image>Question: {question} Answer:".into(),
            before_answer: " ".into(),
            keywords: ["Output:", "Question:", "Answer:"].map(String::from).into(),
            example_captions: Vec::new(),
            example_answers: Vec::new(),
        }
    }
}

impl Prompt {
    /// Parses a prompt in which `<image>` or `<video>` marks the place of each medium and `<EOC>` the end of a chunk.
    pub fn parse(text: &str) -> Self {
        let mut prompt = Self::default();
        let mut rest = text;
        while let Some((at, marker)) = first_marker(rest) {
            prompt = prompt.text(&rest[..at]);
            prompt = if marker == END_OF_CHUNK_MARKER { prompt.end_of_chunk() } else { prompt.medium() };
            rest = &rest[at + marker.len()..];
        }
        prompt.text(rest)
    }

    /// Appends text. Markers in it stay text.
    pub fn text(mut self, text: &str) -> Self {
        match self.pieces.last_mut() {
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
        let pieces = self.pieces.into_iter().filter(|p| *p != Piece::Medium).collect();
        Self { pieces }
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
    pub fn encode(&self, tokenizer: &Tokenizer, tokens: &PromptTokens, media: usize) -> Result<Vec<u32>> {
        if self.media() != media {
            let markers = self.media();
            return Err(Error::Prompt(format!("{markers} media markers, but {media} media")));
        }
        let mut ids: Vec<u32> = tokens.begin.into_iter().collect();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => ids.extend(tokenizer.encode_plain(text)?),
                Piece::Medium => ids.push(tokens.media),
                Piece::EndOfChunk => ids.push(tokens.end_of_chunk),
            }
        }
        Ok(ids)
    }
}

impl PromptFormat {
    /// Checks the format.
    ///
    /// # Errors
    /// The description of the first mistake.
    pub fn check(&self) -> Result<(), String> {
        for (name, prompt) in
            [("caption", Prompt::parse(&self.caption)), ("question", Prompt::parse(&self.question))]
        {
            if prompt.media() != 1 {
                return Err(format!("prompt.{name} has {} media markers instead of one", prompt.media()));
            }
        }
        if !self.question.contains(QUESTION) {
            return Err(format!("prompt.question does not contain {QUESTION}"));
        }
        if self.keywords.iter().any(String::is_empty) {
            return Err("one of prompt.keywords is empty".into());
        }
        Ok(())
    }

    /// Returns the prompt that asks for a caption of one medium.
    pub fn ask_caption(&self) -> Prompt {
        let example = |caption: &String| self.example(Prompt::parse(&self.caption), caption);
        self.zero_shot(self.example_captions.iter().map(example), Prompt::parse(&self.caption))
    }

    /// Returns the prompt that asks a question about one medium.
    pub fn ask_question(&self, question: &str) -> Prompt {
        let example =
            |(question, answer): &(String, String)| self.example(self.question_prompt(question), answer);
        self.zero_shot(self.example_answers.iter().map(example), self.question_prompt(question))
    }

    /// Returns the prompt of a question; markers in the question stay text.
    fn question_prompt(&self, question: &str) -> Prompt {
        match self.question.split_once(QUESTION) {
            Some((before, after)) => Prompt::parse(before).text(question.trim()).then(Prompt::parse(after)),
            None => Prompt::parse(&self.question),
        }
    }

    /// Returns a prompt with its answer, as an example in a longer prompt.
    pub fn example(&self, prompt: Prompt, answer: &str) -> Prompt {
        prompt.text(&self.before_answer).text(answer).end_of_chunk()
    }

    fn zero_shot(&self, examples: impl Iterator<Item = Prompt>, prompt: Prompt) -> Prompt {
        examples.fold(Prompt::default(), |all, example| all.then(example.without_media())).then(prompt)
    }

    /// Reads the answer from generated text: up to the first keyword, trimmed.
    pub fn read_answer(&self, text: &str) -> String {
        let end = self.keywords.iter().filter_map(|k| text.find(k.as_str())).min().unwrap_or(text.len());
        text[..end].trim().to_string()
    }
}

fn first_marker(text: &str) -> Option<(usize, &'static str)> {
    let markers = MEDIUM_MARKERS.into_iter().chain([END_OF_CHUNK_MARKER]);
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

    #[test]
    fn question_cannot_forge_medium() {
        check(
            PromptFormat::default().ask_question(" is it <image>?<EOC> "),
            &[Piece::Medium, text("Question: is it <image>?<EOC> Answer:")],
        );
    }

    #[test]
    fn zero_shot_examples_have_no_media() {
        let format = PromptFormat { example_captions: vec!["A dog.".into()], ..PromptFormat::default() };
        check(
            format.ask_caption(),
            &[text("Output: A dog."), Piece::EndOfChunk, Piece::Medium, text("Output:")],
        );
    }

    #[test]
    fn answer_ends_at_first_keyword() {
        let format = PromptFormat::default();
        for (generated, answer) in [
            (" a cat", "a cat"),
            (" a cat\nQuestion: and", "a cat"),
            ("Output: x", ""),
            (" two Answer: b Output: c", "two"),
            ("", ""),
        ] {
            assert_eq!(format.read_answer(generated), answer, "{generated:?}");
        }
    }
}
