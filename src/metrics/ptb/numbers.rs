//! Numbers, dates, fractions, amounts and telephone numbers.

use super::characters::is_digit;
use super::{Form, Match, Text};

/// End of digits at `at`, if there are at least `least`, and at most `most` of them.
fn digits(text: Text, at: usize, least: usize, most: usize) -> Option<usize> {
    let end = text.run(at, is_digit).min(at + most);
    (end >= at + least).then_some(end)
}

/// End of all the digits at `at`, if their count is from `least` to `most`.
fn group(text: Text, at: usize, least: usize, most: usize) -> Option<usize> {
    let end = text.run(at, is_digit);
    (at + least..=at + most).contains(&end).then_some(end)
}

/// `1/2/2013`, `10-12-99`.
pub(super) fn date(text: Text) -> Option<Match> {
    let line = |at| text.is(at, |c| c == '-' || c == '/').then_some(at + 1);
    let month = line(group(text, 0, 1, 2)?)?;
    let year = line(group(text, month, 1, 2)?)?;
    digits(text, year, 2, 4).map(Match::plain)
}

/// End of a number without a sign: `5`, `1,000.5`, `12:30`, `.5`.
pub(super) fn unsigned(text: Text, at: usize) -> Option<usize> {
    let mut end = text.run(at, is_digit);
    let point = |c| matches!(c, '.' | ':' | ',' | '\u{ad}' | '\u{66b}' | '\u{66c}');
    while text.is(end, point) && text.is(end + 1, is_digit) {
        end = text.run(end + 1, is_digit);
    }
    (end > at).then_some(end)
}

/// A number with or without a sign.
pub(super) fn number(text: Text) -> Option<Match> {
    let sign = usize::from(text.is(0, |c| c == '-' || c == '+'));
    unsigned(text, sign).map(Match::plain)
}

/// Raised or lowered digits.
pub(super) fn superscript(text: Text) -> Option<Match> {
    let raised = |c| matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}');
    let sign = usize::from(text.is(0, |c| matches!(c, '\u{207a}' | '\u{207b}' | '\u{208a}' | '\u{208b}')));
    let end = text.run(sign, raised).max(text.run(sign, |c| matches!(c, '\u{2080}'..='\u{2089}')));
    (end > sign).then(|| Match::plain(end))
}

/// `1/2`, `3 1/2`.
pub(super) fn fraction(text: Text) -> Option<Match> {
    let simple = |at| {
        let above = group(text, at, 1, 4)?;
        let line = above + usize::from(text.get(above) == Some('\\') && text.get(above + 1) == Some('/'));
        let below = text.is(line, |c| c == '/' || c == '\u{2044}').then_some(line + 1)?;
        digits(text, below, 1, 4)
    };
    let space = |c| matches!(c, '-' | ' ' | '\u{a0}');
    let whole = group(text, 0, 1, 4).filter(|&at| text.is(at, space)).and_then(|at| simple(at + 1));
    whole.or_else(|| simple(0)).map(Match::plain)
}

/// A character that is a fraction.
pub(super) fn fraction_sign(text: Text) -> Option<Match> {
    let value = match text.get(0)? {
        '\u{bc}' => "1/4",
        '\u{bd}' => "1/2",
        '\u{be}' => "3/4",
        '\u{2153}' => "1/3",
        '\u{2154}' => "2/3",
        _ => return None,
    };
    Some(Match::plain(1).with_form(Form::Fixed(value)))
}

/// `$`, `US$`.
pub(super) fn dollar(text: Text) -> Option<Match> {
    let end = text.run(0, |c| c.is_ascii_uppercase());
    (text.get(end) == Some('$')).then(|| Match::plain(end + 1))
}

/// Other currencies, which the Penn Treebank writes in ASCII.
pub(super) fn currency(text: Text) -> Option<Match> {
    let name = match text.get(0)? {
        '\u{a2}' => "cents",
        '\u{a3}' => "#",
        '\u{80}' | '\u{a4}' | '\u{20a0}' | '\u{20ac}' => "$",
        '\u{a5}' => "\u{a5}",
        _ => return None,
    };
    Some(Match::plain(1).with_form(Form::Fixed(name)))
}

/// `(555) 555-1234`, `+12 555 555 1234`, `555.555.1234`.
pub(super) fn phone(text: Text) -> Option<Match> {
    let end = [in_parentheses(text), with_spaces(text), with_points(text)].into_iter().flatten().max()?;
    Some(Match::plain(end).with_form(Form::Parentheses))
}

fn gap(text: Text, at: usize) -> Option<usize> {
    text.is(at, |c| matches!(c, '-' | ' ' | '\u{a0}')).then_some(at + 1)
}

fn plus(text: Text) -> usize {
    text.run(0, |c| c == '+').min(2)
}

/// End of the last two groups, with or without a gap between them.
fn subscriber(text: Text, at: usize) -> Option<usize> {
    let apart = group(text, at, 3, 4).and_then(|end| digits(text, gap(text, end)?, 3, 5));
    apart.or_else(|| digits(text, at, 6, 9))
}

fn in_parentheses(text: Text) -> Option<usize> {
    let end = (text.get(0) == Some('(')).then(|| group(text, 1, 2, 3)).flatten()?;
    let end = (text.get(end) == Some(')')).then_some(end + 1)?;
    let space = usize::from(text.is(end, |c| c == ' ' || c == '\u{a0}'));
    subscriber(text, end + space)
}

fn with_spaces(text: Text) -> Option<usize> {
    let next = |at| group(text, at, 2, 4).and_then(|end| gap(text, end));
    let first = next(plus(text))?;
    let second = next(first).and_then(|at| subscriber(text, at));
    second.into_iter().chain(subscriber(text, first)).max()
}

fn with_points(text: Text) -> Option<usize> {
    let next = |at, least, most| {
        group(text, at, least, most).filter(|&end| text.get(end) == Some('.')).map(|end| end + 1)
    };
    let local = |at| digits(text, next(next(at, 2, 4)?, 3, 4)?, 3, 5);
    let long = next(plus(text), 2, 4).and_then(local);
    long.into_iter().chain(local(0)).max()
}
