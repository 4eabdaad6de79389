//! Marks between words.

use super::characters::{is_space, is_symbol};
use super::{Form, Match, Text};

/// One or two quotation marks.
pub(super) fn quotes(text: Text) -> Option<Match> {
    let mark = |c| matches!(c, '`' | '\u{91}'..='\u{94}' | '\u{ab}' | '\u{bb}');
    let wide = |c| matches!(c, '\u{2018}'..='\u{201f}' | '\u{2039}' | '\u{203a}');
    let marks = text.run(0, |c| mark(c) || wide(c)).min(2);
    let end = text.literal(0, "''").or_else(|| text.apostrophe(0)).unwrap_or(0).max(marks);
    (end > 0).then(|| Match::plain(end).with_form(Form::Quotes))
}

/// Points of an omission, with or without spaces between them.
pub(super) fn omission(text: Text) -> Option<Match> {
    let points = text.run(0, |c| c == '.').min(5);
    let spaced = |at: &usize| text.get(*at) == Some('.') && text.is(at + 1, |c| c == ' ' || c == '\u{a0}');
    let last = (0..).step_by(2).take(4).take_while(spaced).last().map(|at| at + 2);
    let last = last
        .map(|last| if text.get(last) == Some('.') { last + 1 } else { last - 1 })
        .filter(|&end| end >= 5);
    let end = Some(points).filter(|&points| points >= 3).max(last)?;
    Some(Match::plain(end).with_form(Form::Fixed("...")))
}

/// Runs of hyphens and of `?` and `!`. Only those remain that the list of punctuation lacks.
pub(super) fn marks(text: Text) -> Option<Match> {
    let hyphens = text.run(0, |c| c == '-');
    let end = if hyphens > 0 { hyphens } else { text.run(0, |c| c == '?' || c == '!') };
    let form = if (2..=4).contains(&hyphens) { Form::Fixed("--") } else { Form::Plain };
    (end > 0).then(|| Match::plain(end).with_form(form))
}

/// Asterisks with backslashes, up to three.
pub(super) fn escaped_asterisks(text: Text) -> Option<Match> {
    text.longest(0, "\\* \\*\\* \\*\\*\\*").map(Match::plain)
}

/// A symbol that is a token of its own.
pub(super) fn symbol(text: Text) -> Option<Match> {
    let form = match text.get(0)? {
        '(' => Form::Fixed("-lrb-"),
        ')' => Form::Fixed("-rrb-"),
        '[' => Form::Fixed("-lsb-"),
        ']' => Form::Fixed("-rsb-"),
        '{' => Form::Fixed("-lcb-"),
        '}' => Form::Fixed("-rcb-"),
        c @ ('<' | '>') if text.get(1) == Some(c) => return Some(Match::plain(2)),
        '<' | '>' | '/' | '=' => Form::Plain,
        c if is_symbol(c) => Form::Plain,
        _ => return None,
    };
    Some(Match::plain(1).with_form(form))
}

/// A straight apostrophe before a letter, which is no part of the word.
pub(super) fn opening_apostrophe(text: Text) -> Option<Match> {
    let letter = text.is(1, |c| c.is_ascii_alphabetic()) && text.is(2, |c| !is_space(c));
    (text.get(0) == Some('\'') && letter).then(|| Match::plain(1).with_context(2))
}
