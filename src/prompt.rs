//! Interleaved media and text -> token ids.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::language::Tokenizer;

/// Where a medium goes in a written prompt; both words mean the same, a medium is what it is.
const MEDIUM_MARKERS: [&str; 2] = ["<image>", "<video>"];
/// Where a chunk (one medium and its text) ends.
const END_OF_CHUNK_MARKER: &str = "<EOC>";
const QUESTION: &str = "{question}";

/// Text and media in the order in which the model reads them.
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

/// The ids that stand for what is not text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTokens {
    pub begin: Option<u32>,
    pub media: u32,
    pub end_of_chunk: u32,
}

/// The words around media and answers. Written with the markers of [`Prompt::parse`]; `{question}` stands for the
/// question. The default is the paper's (section 4.1.3 and figure 8 of its first version).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFormat {
    pub caption: String,
    pub question: String,
    /// Between a prompt and its answer.
    pub before_answer: String,
    /// An answer is cut where one of these begins: the model has gone on to write the next example.
    pub keywords: Vec<String>,
    /// Answers for text-only examples that show the form of a caption without showing a medium (the paper gives two).
    pub example_captions: Vec<String>,
    /// The same for questions: question and answer.
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
    /// Reads a prompt in which `<image>` or `<video>` marks where each medium goes and `<EOC>` the end of a chunk.
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

    /// Appends text. Nothing in it is a marker.
    pub fn text(mut self, text: &str) -> Self {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            // One run of text is tokenised as one, wherever its parts came from.
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.into())),
        }
        self
    }

    pub fn medium(mut self) -> Self {
        self.pieces.push(Piece::Medium);
        self
    }

    pub fn end_of_chunk(mut self) -> Self {
        self.pieces.push(Piece::EndOfChunk);
        self
    }

    /// Appends all of `other`.
    pub fn then(mut self, other: Prompt) -> Self {
        for piece in other.pieces {
            match piece {
                Piece::Text(text) => self = self.text(&text),
                other => self.pieces.push(other),
            }
        }
        self
    }

    /// The same without its media: what the paper shows a model zero-shot.
    pub fn without_media(self) -> Self {
        let pieces = self.pieces.into_iter().filter(|p| *p != Piece::Medium).collect();
        Self { pieces }
    }

    /// How many media it places.
    pub fn media(&self) -> usize {
        self.pieces.iter().filter(|p| **p == Piece::Medium).count()
    }

    /// The ids of the prompt. Text cannot forge a medium or an end of chunk: it is never parsed for special tokens.
    ///
    /// # Errors
    /// The prompt places another number of media than there are, or the tokenizer refuses the text.
    pub fn encode(&self, tokenizer: &Tokenizer, tokens: &PromptTokens, media: usize) -> Result<Vec<u32>> {
        if self.media() != media {
            let places = self.media();
            return Err(Error::Prompt(format!("it has places for {places} media, but there are {media}")));
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
    /// Refuses a format that could not ask.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        for (name, prompt) in
            [("caption", Prompt::parse(&self.caption)), ("question", Prompt::parse(&self.question))]
        {
            if prompt.media() != 1 {
                return Err(format!("prompt.{name} places {} media instead of one", prompt.media()));
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

    /// Asks for a caption of one medium.
    pub fn ask_caption(&self) -> Prompt {
        let example = |caption: &String| self.example(Prompt::parse(&self.caption), caption);
        self.zero_shot(self.example_captions.iter().map(example), Prompt::parse(&self.caption))
    }

    /// Asks a question about one medium.
    pub fn ask_question(&self, question: &str) -> Prompt {
        let example = |(question, answer): &(String, String)| self.example(self.pose(question), answer);
        self.zero_shot(self.example_answers.iter().map(example), self.pose(question))
    }

    /// The question in its words; whatever it contains stays text.
    fn pose(&self, question: &str) -> Prompt {
        match self.question.split_once(QUESTION) {
            Some((before, after)) => Prompt::parse(before).text(question.trim()).then(Prompt::parse(after)),
            None => Prompt::parse(&self.question),
        }
    }

    /// A prompt with its answer, as an example in a longer prompt.
    pub fn example(&self, prompt: Prompt, answer: &str) -> Prompt {
        prompt.text(&self.before_answer).text(answer).end_of_chunk()
    }

    fn zero_shot(&self, examples: impl Iterator<Item = Prompt>, prompt: Prompt) -> Prompt {
        examples.fold(Prompt::default(), |all, example| all.then(example.without_media())).then(prompt)
    }

    /// The answer in what the model wrote: up to the first keyword, without white space around it.
    pub fn read_answer(&self, written: &str) -> String {
        let end =
            self.keywords.iter().filter_map(|k| written.find(k.as_str())).min().unwrap_or(written.len());
        written[..end].trim().to_string()
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
    fn markers_become_media_and_ends_of_chunks() {
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
    fn a_question_cannot_forge_a_medium() {
        check(
            PromptFormat::default().ask_question(" is it <image>?<EOC> "),
            &[Piece::Medium, text("Question: is it <image>?<EOC> Answer:")],
        );
    }

    #[test]
    fn zero_shot_examples_lose_their_media() {
        let format = PromptFormat { example_captions: vec!["A dog.".into()], ..PromptFormat::default() };
        check(
            format.ask_caption(),
            &[text("Output: A dog."), Piece::EndOfChunk, Piece::Medium, text("Output:")],
        );
    }

    #[test]
    fn an_answer_ends_where_the_next_example_begins() {
        let format = PromptFormat::default();
        for (written, answer) in [
            (" a cat", "a cat"),
            (" a cat\nQuestion: and", "a cat"),
            ("Output: x", ""),
            (" two Answer: b Output: c", "two"),
            ("", ""),
        ] {
            assert_eq!(format.read_answer(written), answer, "{written:?}");
        }
    }
}
