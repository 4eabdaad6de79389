//! Words, contractions, compounds, and the marks between them.

use super::characters::{is_alphabetic, is_digit, is_letter, is_space};
use super::{Form, Match, Text, abbreviations};

/// Words that are two tokens, with the length of the second one.
const PAIRS: [(&str, usize); 8] = [
    ("cannot", 3),
    ("gonna", 2),
    ("gotta", 2),
    ("lemme", 2),
    ("gimme", 2),
    ("wanna", 2),
    ("'tis", 2),
    ("'twas", 3),
];
const CLITICS: &str = "m s d re ve ll";
/// Words with apostrophes; `'` stands for every kind of apostrophe.
const WITH_APOSTROPHE: &str = "'n' 'n dunkin' somethin' ol' 'em 'till 'til 'cause";
/// Words with a straight apostrophe.
const WITH_STRAIGHT_APOSTROPHE: &str = "cont'd. cont'd nor'easter c'mon e'er s'mores ev'ry li'l nat'l";

/// The first token of a word that is two: `can` of `cannot`.
pub(super) fn fused_pair(text: Text) -> Option<Match> {
    PAIRS.iter().find_map(|&(word, second)| {
        let end = text.literal(0, word)?;
        Some(Match::plain(end - second).with_context(second))
    })
}

/// End of letters and digits that begin with a letter, also with `.`, `!` or `?` between them.
fn word_end(text: Text) -> Option<usize> {
    let mut end = text.letters_and_digits(text.letter(0)?);
    while text.is(end, |c| matches!(c, '.' | '!' | '?')) && text.letter(end + 1).is_some() {
        end = text.letters_and_digits(end + 1);
    }
    Some(end)
}

pub(super) fn word(text: Text) -> Option<Match> {
    word_end(text).map(Match::plain)
}

/// End of `'s`, `'ll` and their like at `at`.
fn clitic_end(text: Text, at: usize) -> Option<usize> {
    text.longest(text.apostrophe(at)?, CLITICS)
}

/// End of `n't` at `at`.
fn not_end(text: Text, at: usize) -> Option<usize> {
    text.literal(text.loose_apostrophe(text.literal(at, "n")?)?, "t")
}

/// `dog` of `dog's`.
pub(super) fn word_before_clitic(text: Text) -> Option<Match> {
    let end = word_end(text)?;
    Some(Match::plain(end).with_context(clitic_end(text, end)? - end))
}

/// `do` of `don't`.
pub(super) fn word_before_not(text: Text) -> Option<Match> {
    let run = text.run(0, |c| c.is_ascii_alphabetic() || c == '\u{ad}');
    let end = run.checked_sub(1).filter(|&end| end > 0)?;
    let reach = not_end(text, end)?;
    let last = text.before(end).iter().rev().find(|&&c| c != '\u{ad}')?;
    (!last.eq_ignore_ascii_case(&'n')).then(|| Match::plain(end).with_context(reach - end))
}

/// `y'` of `y'all`.
pub(super) fn y_before_word(text: Text) -> Option<Match> {
    let end = text.apostrophe(text.literal(0, "y")?)?;
    text.is(end, is_letter).then(|| Match::plain(end).with_context(1))
}

/// `'s` by itself.
pub(super) fn clitic(text: Text) -> Option<Match> {
    let end = clitic_end(text, 0)?;
    let open = text.is(end, |c| !c.is_ascii_alphabetic());
    open.then(|| Match::plain(end).with_context(1).with_form(Form::Quotes))
}

/// `n't` by itself.
pub(super) fn not(text: Text) -> Option<Match> {
    let end = not_end(text, 0)?;
    let open = text.is(end, |c| !c.is_ascii_alphabetic());
    open.then(|| Match::plain(end).with_context(1).with_form(Form::Quotes))
}

/// A word with an apostrophe inside: `'em`, `qu'est`, `Q'ran`, `'80s`, `l'`.
pub(super) fn apostrophe_word(text: Text) -> Option<Match> {
    let listed = WITH_APOSTROPHE.split(' ').filter_map(|word| with_any_apostrophe(text, word)).max();
    let straight = text.longest(0, WITH_STRAIGHT_APOSTROPHE);
    let article = text.is(0, |c| "lLdDjJ".contains(c)).then(|| text.apostrophe(1)).flatten();
    let found = [listed, straight, article, capital_apostrophe(text), vowel_apostrophe(text), decade(text)];
    found.into_iter().flatten().max().map(Match::plain)
}

fn with_any_apostrophe(text: Text, word: &str) -> Option<usize> {
    word.split_inclusive('\'').try_fold(0, |at, part| match part.strip_suffix('\'') {
        Some(letters) => text.apostrophe(text.literal(at, letters)?),
        None => text.literal(at, part),
    })
}

/// `Q'ran`: a capital, an apostrophe, at least two letters.
fn capital_apostrophe(text: Text) -> Option<usize> {
    text.is(0, |c| matches!(c, 'A'..='H' | 'J'..='X' | 'Z' | 'n')).then_some(())?;
    let start = text.loose_apostrophe(1)?;
    let end = text.run(start, is_alphabetic);
    (end >= start + 2).then_some(end)
}

/// `Shi'ite`: letters that end in a vowel, an apostrophe, a vowel or a capital, letters; also `o'o`.
fn vowel_apostrophe(text: Text) -> Option<usize> {
    let end = text.run(0, is_alphabetic);
    if let Some(short) = text.literal(0, "o").filter(|&short| short == end) {
        return text.literal(text.loose_apostrophe(short)?, "o");
    }
    (end >= 2 && text.is(end - 1, |c| "aeiouyAEIOUY".contains(c))).then_some(())?;
    let start = text.loose_apostrophe(end)?;
    text.is(start, |c| "aeiou".contains(c) || c.is_ascii_uppercase()).then(|| text.run(start, is_alphabetic))
}

/// `'80s`.
fn decade(text: Text) -> Option<usize> {
    let at = text.apostrophe(0)?;
    text.is(at, |c| matches!(c, '2'..='9')).then(|| text.literal(at + 1, "0s")).flatten()
}

/// `'99` before a space.
pub(super) fn year(text: Text) -> Option<Match> {
    let at = text.apostrophe(0)?;
    let digits = text.is(at, |c| c.is_ascii_digit()) && text.is(at + 1, |c| c.is_ascii_digit());
    (digits && text.is(at + 2, is_space)).then(|| Match::plain(at + 2).with_context(1))
}

/// Names of programming languages.
pub(super) fn programming_language(text: Text) -> Option<Match> {
    text.longest(0, "c++ c# f#").map(Match::plain)
}

/// Single words that the treebank has.
pub(super) fn treebank_word(text: Text) -> Option<Match> {
    let words = "-rrb- -lrb- -rcb- -lcb- -rsb- -lsb- c.d.s pro- anti- s&p-500 s&amp;p-500 s&ls s&amp;ls";
    let listed = text.longest(0, words);
    let cap = text.literal(0, "cap").and_then(|at| text.literal(text.apostrophe(at)?, "n"));
    let est = text.literal(0, "c").and_then(|at| text.literal(text.apostrophe(at)?, "est"));
    [listed, cap, est].into_iter().flatten().max().map(|end| Match::plain(end).with_form(Form::Ampersand))
}

/// `and/or`, `he/she/it`, with up to two hyphens in each part.
pub(super) fn slashed(text: Text) -> Option<Match> {
    let part = |at| {
        let mut end = text.run(at, |c: char| c.is_ascii_alphanumeric());
        (end > at).then_some(())?;
        for _ in 0..2 {
            let letters = text.run(end + 1, |c| c.is_ascii_alphabetic());
            if text.get(end) == Some('-') && letters > end + 1 {
                end = letters;
            }
        }
        Some(end)
    };
    let slash = |at| {
        let at = at + usize::from(text.get(at) == Some('\\'));
        (text.get(at) == Some('/')).then_some(at + 1)
    };
    let first = slash(part(0)?).and_then(part)?;
    let end = slash(first).and_then(part).unwrap_or(first);
    Some(Match::plain(end))
}

fn before_comma(text: Text, end: usize) -> Option<Match> {
    let comma = |c| matches!(c, ',' | ';' | ':' | '\u{3001}');
    (text.get(end) == Some('.') && text.is(end + 1, comma)).then(|| Match::plain(end + 1).with_context(1))
}

/// `word.` before a comma, where the period is that of an abbreviation.
pub(super) fn word_before_comma(text: Text) -> Option<Match> {
    before_comma(text, word_end(text)?)
}

/// `1,000-seat`, `U.S.-based`: letters, digits, points and commas, then parts with hyphens.
pub(super) fn dotted_compound(text: Text) -> Option<Match> {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    text.is(0, alphanumeric).then_some(())?;
    let first = text.run(1, |c| alphanumeric(c) || matches!(c, '.' | ',' | '\u{ad}'));
    let mut end = first;
    while text.get(end) == Some('-') {
        let part = text.run(end + 1, |c| alphanumeric(c) || c == '\u{ad}');
        let letters = text.from(end + 1);
        let acronym = abbreviations::acronym(letters)
            .filter(|&length| length >= 4)
            .map_or(0, |length| end + 1 + length);
        if part.max(acronym) <= end + 1 {
            break;
        }
        end = part.max(acronym);
    }
    (end > first).then(|| Match::plain(end))
}

pub(super) fn dotted_compound_before_comma(text: Text) -> Option<Match> {
    before_comma(text, dotted_compound(text)?.end)
}

/// End of a part of a compound: letters and digits, perhaps after `d'`, `o'` or `l'`.
fn compound_part(text: Text, at: usize) -> Option<usize> {
    let part = |c| is_alphabetic(c) || is_digit(c);
    let prefix = text.is(at, |c| "dDoOlL".contains(c)).then(|| text.loose_apostrophe(at + 1)).flatten();
    let long = prefix.map(|start| (start, text.run(start, part))).filter(|(start, end)| *end >= start + 2);
    let end = long.map_or_else(|| text.run(at, part), |(_, end)| end);
    (end > at).then_some(end)
}

/// `O'Brien`, `caf\u{e9}-bar`, `a_b`.
pub(super) fn compound(text: Text) -> Option<Match> {
    let mut end = compound_part(text, 0)?;
    let hyphen = |c| matches!(c, '-' | '_' | '\u{58a}' | '\u{2010}' | '\u{2011}');
    while text.is(end, hyphen) {
        match compound_part(text, end + 1) {
            Some(next) => end = next,
            None => break,
        }
    }
    Some(Match::plain(end))
}

pub(super) fn compound_before_comma(text: Text) -> Option<Match> {
    before_comma(text, compound(text)?.end)
}

/// `AT&T`, `A+B`.
pub(super) fn joined_capitals(text: Text) -> Option<Match> {
    let capitals = |at| Some(text.run(at, |c| c.is_ascii_uppercase())).filter(|&end| end > at);
    let first = capitals(0)?;
    let mut end = first;
    let sign = |at| text.longest(at, "+ &amp; &");
    while let Some(next) = sign(end).and_then(capitals) {
        end = next;
    }
    (end > first).then(|| Match::plain(end).with_form(Form::Ampersand))
}

pub(super) fn joined_capitals_before_comma(text: Text) -> Option<Match> {
    before_comma(text, joined_capitals(text)?.end).map(|found| found.with_form(Form::Ampersand))
}

/// `'s` before letters.
pub(super) fn clitic_in_a_word(text: Text) -> Option<Match> {
    clitic_end(text, 0).map(|end| Match::plain(end).with_form(Form::Quotes))
}
