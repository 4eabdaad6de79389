//! The rest of a caption at the place of the next token.

use super::characters::{is_digit, is_letter};

/// Greatest length of a token with the text behind it that a rule reads.
const WINDOW: usize = 512;

/// The rest of a caption, from the place of the next token. Positions count from there, in characters.
#[derive(Clone, Copy)]
pub(super) struct Text<'a>(&'a [char]);

/// Token that a rule found.
pub(super) struct Match {
    /// End of the token.
    pub(super) end: usize,
    /// End of the text that the rule read.
    pub(super) reach: usize,
    /// Change of the token.
    pub(super) form: Form,
}

/// Change of a token, before it becomes lower case.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// The token without soft hyphens.
    Plain,
    /// The token with `&` in place of `&amp;`.
    Ampersand,
    /// The token with quotation marks as in LaTeX.
    Quotes,
    /// The token with its parentheses named.
    Parentheses,
    /// Another token.
    Fixed(&'static str),
}

impl Form {
    pub(super) fn apply(self, token: &[char]) -> String {
        let text: String = token.iter().collect();
        let text = match self {
            Form::Plain => text.replace('\u{ad}', ""),
            Form::Ampersand => text.to_lowercase().replace("&amp;", "&"),
            Form::Quotes => text
                .to_lowercase()
                .replace("&apos;", "'")
                .replace(['\u{91}', '\u{2018}', '\u{201b}', '\u{2039}'], "`")
                .replace(['\u{92}', '\u{2019}', '\u{203a}'], "'")
                .replace(['\u{93}', '\u{201c}', '\u{ab}'], "``")
                .replace(['\u{94}', '\u{201d}', '\u{bb}'], "''"),
            Form::Parentheses => text.replace('(', "-lrb-").replace(')', "-rrb-"),
            Form::Fixed(text) => text.to_string(),
        };
        text.to_lowercase()
    }
}

impl Match {
    pub(super) fn plain(end: usize) -> Self {
        Self { end, reach: end, form: Form::Plain }
    }

    /// Adds `count` characters behind the token to the match.
    pub(super) fn with_context(self, count: usize) -> Self {
        Self { reach: self.end + count, ..self }
    }

    pub(super) fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(line: &'a [char], at: usize) -> Self {
        Self(&line[at..line.len().min(at + WINDOW)])
    }

    pub(super) fn get(self, at: usize) -> Option<char> {
        self.0.get(at).copied()
    }

    pub(super) fn before(self, end: usize) -> &'a [char] {
        &self.0[..end]
    }

    pub(super) fn from(self, at: usize) -> Self {
        Self(self.0.get(at..).unwrap_or_default())
    }

    /// Whether the character at a place exists and is of a class.
    pub(super) fn is(self, at: usize, class: impl Fn(char) -> bool) -> bool {
        self.get(at).is_some_and(class)
    }

    /// End of the run of characters of a class that begins at `at`.
    pub(super) fn run(self, at: usize, class: impl Fn(char) -> bool) -> usize {
        self.0.iter().skip(at).position(|&c| !class(c)).map_or(self.0.len().max(at), |length| at + length)
    }

    /// End of `word` at `at`, in capitals or not.
    pub(super) fn literal(self, at: usize, word: &str) -> Option<usize> {
        let mut end = at;
        for c in word.chars() {
            if !self.is(end, |at| at.eq_ignore_ascii_case(&c)) {
                return None;
            }
            end += 1;
        }
        Some(end)
    }

    /// End of the longest of these words at `at`.
    pub(super) fn longest(self, at: usize, words: &str) -> Option<usize> {
        words.split(' ').filter_map(|word| self.literal(at, word)).max()
    }

    /// End of the letter at `at`; an entity such as `&eacute;` is one letter.
    pub(super) fn letter(self, at: usize) -> Option<usize> {
        if self.is(at, is_letter) {
            return Some(at + 1);
        }
        if self.get(at) != Some('&') || !self.is(at + 1, |c| "aeiou".contains(c.to_ascii_lowercase())) {
            return None;
        }
        self.longest(at + 2, "acute; grave; uml;")
    }

    /// End of the run of letters and digits at `at`.
    pub(super) fn letters_and_digits(self, mut at: usize) -> usize {
        while let Some(end) = self.letter(at).or_else(|| self.is(at, is_digit).then_some(at + 1)) {
            at = end;
        }
        at
    }

    /// End of the apostrophe at `at`.
    pub(super) fn apostrophe(self, at: usize) -> Option<usize> {
        match self.get(at)? {
            '\'' | '\u{92}' | '\u{2019}' => Some(at + 1),
            '&' => self.literal(at, "&apos;"),
            _ => None,
        }
    }

    /// End of the apostrophe at `at`, or of a character that people use in its place.
    pub(super) fn loose_apostrophe(self, at: usize) -> Option<usize> {
        let loose = |c| matches!(c, '`' | '\u{91}' | '\u{2018}' | '\u{201b}');
        self.apostrophe(at).or_else(|| self.is(at, loose).then_some(at + 1))
    }
}
