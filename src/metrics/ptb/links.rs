//! Tags, addresses, handles and smileys.

use super::characters::{is_letter, is_space};
use super::{Form, Match, Text};

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-' | '_')
}

/// A tag of SGML with its attributes: `<b>`, `</a>`, `<a href="b">`, `<!-- c -->`.
pub(super) fn tag(text: Text) -> Option<Match> {
    if text.get(0) != Some('<') {
        return None;
    }
    if text.is(1, |c| c == '!' || c == '?') {
        text.is(2, |c| c.is_ascii_alphabetic() || c == '-').then_some(())?;
        let end = text.run(3, |c| c != '>' && c != '\n' && c != '\r');
        return (text.get(end) == Some('>')).then(|| Match::plain(end + 1));
    }
    let name = 1 + usize::from(text.get(1) == Some('/'));
    text.is(name, |c| c.is_ascii_alphabetic()).then_some(())?;
    let mut end = text.run(name, is_name);
    loop {
        let after = text.run(end, |c| c == ' ');
        match attribute(text, after).filter(|_| after > end) {
            Some(next) => end = next,
            None => break,
        }
    }
    end = text.run(end, |c| c == ' ');
    end = text.run(end + usize::from(text.get(end) == Some('/')), |c| c == ' ');
    (text.get(end) == Some('>')).then(|| Match::plain(end + 1))
}

/// End of the attribute at `at`: `a`, `a="b"`, `a = 'b'`.
fn attribute(text: Text, at: usize) -> Option<usize> {
    text.is(at, |c| c.is_ascii_alphabetic()).then_some(())?;
    let name = text.run(at, is_name);
    let equals = text.run(name, |c| c == ' ');
    if text.get(equals) != Some('=') {
        return Some(name);
    }
    let quote = text.run(equals + 1, |c| c == ' ');
    let mark = text.get(quote).filter(|&c| c == '"' || c == '\'')?;
    let end = text.run(quote + 1, |c| c != mark && c != '\n' && c != '\r');
    (text.get(end) == Some(mark)).then_some(end + 1)
}

/// Entities that are no letters: `&amp;`, `&lt;`, `&#39;`.
pub(super) fn entity(text: Text) -> Option<Match> {
    (text.get(0) == Some('&')).then_some(())?;
    for (name, token) in [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "''"), ("&nbsp;", " ")] {
        if let Some(end) = text.literal(0, name) {
            return Some(Match::plain(end).with_form(Form::Fixed(token)));
        }
    }
    if let Some(end) = text.longest(0, "&md; &mdash; &ndash;") {
        return Some(Match::plain(end).with_form(Form::Fixed("--")));
    }
    if let Some(end) = text.longest(0, "&ht; &tl; &ur; &lr; &qc; &ql; &qr; &odq; &cdq;") {
        return Some(Match::plain(end));
    }
    let end = text.run(2, |c| c.is_ascii_digit());
    (text.get(1) == Some('#') && end > 2 && text.get(end) == Some(';')).then(|| Match::plain(end + 1))
}

fn ends_address(c: char) -> bool {
    is_space(c) || matches!(c, '"' | '<' | '>' | '|' | '(' | ')' | '{' | '}')
}

/// Last place before `end` whose character may end an address, plus one.
fn without_punctuation(text: Text, start: usize, end: usize) -> Option<usize> {
    let ends = |at: &usize| !text.is(*at, |c| matches!(c, '.' | '!' | '?' | ',' | '-'));
    (start + 1..end).rev().find(ends).map(|at| at + 1)
}

/// `http://a.b/c`.
pub(super) fn url(text: Text) -> Option<Match> {
    let start = text.longest(0, "http:// https://")?;
    without_punctuation(text, start, text.run(start, |c| !ends_address(c))).map(Match::plain)
}

/// A host without `http://`: `www.a.b`, `foo.com`, with its path.
pub(super) fn host(text: Text) -> Option<Match> {
    let end = text.literal(0, "www.").and_then(|at| www(text, at)).into_iter().chain(domain(text)).max()?;
    let path = (text.get(end) == Some('/'))
        .then(|| text.run(end + 1, |c| !is_space(c) && !matches!(c, '"' | '<' | '>' | '|' | '(' | ')')))
        .and_then(|last| without_punctuation(text, end + 1, last));
    Some(Match::plain(path.unwrap_or(end)))
}

/// End of the host after `www.`: names, then two to four letters.
fn www(text: Text, at: usize) -> Option<usize> {
    let (mut name, mut host) = (at, None);
    loop {
        let end = text.run(name, |c| !ends_address(c) && !matches!(c, '.' | '!' | '?' | ','));
        if end == name || text.get(end) != Some('.') {
            return host;
        }
        name = end + 1;
        let letters = text.run(name, |c| c.is_ascii_alphabetic());
        if letters >= name + 2 {
            host = Some(letters.min(name + 4));
        }
    }
}

/// End of a host in lower case that ends in `.com`, `.net`, `.org` or `.edu`.
fn domain(text: Text) -> Option<usize> {
    let part =
        |c: char| !ends_address(c) && !matches!(c, '`' | '\'' | '!' | '?' | '$') && !matches!(c, ','..='_');
    let (mut name, mut host) = (0, None);
    loop {
        let end = text.run(name, part);
        if end == name || text.get(end) != Some('.') {
            return host;
        }
        name = end + 1;
        host = text.longest(name, "com net org edu").or(host);
    }
}

/// Endings of file names.
const FILE_ENDINGS: &str = "3gp avi bat bmp c class cgi cpp dll doc docx exe flv gif gz h htm html jar java jpeg jpg \
    mov mp3 mp4 mpg pdf php pl png ppt ps py sql tar txt wav wma wmv x xml zip";

/// The name of a file before a space or the end of a sentence: `2.jpg`.
pub(super) fn file_name(text: Text) -> Option<Match> {
    let (mut part, mut name) = (0, None);
    loop {
        let end = text.letters_and_digits(part);
        if end == part || text.get(end) != Some('.') {
            return name;
        }
        part = end + 1;
        let closed = |end: &usize| text.is(*end, |c| is_space(c) || matches!(c, '.' | '?' | '!' | ','));
        let found = FILE_ENDINGS
            .split_whitespace()
            .filter_map(|ending| text.literal(part, ending))
            .filter(closed)
            .max();
        name = found.map(|end| Match::plain(end).with_context(1)).or(name);
    }
}

/// An address of electronic mail, with its angle brackets.
pub(super) fn email(text: Text) -> Option<Match> {
    let start = text.literal(0, "<").or_else(|| text.literal(0, "&lt;")).unwrap_or(0);
    text.is(start, |c| c.is_ascii_alphanumeric()).then_some(())?;
    let part = |c| !ends_address(c);
    let last = text.run(start, part);
    for at in (start + 1..last).rev().filter(|&at| text.get(at) == Some('@')) {
        if let Some(end) = labels(text, at + 1) {
            return Some(Match::plain(text.longest(end, "> &gt;").unwrap_or(end)));
        }
    }
    None
}

/// End of names with single points between them.
fn labels(text: Text, at: usize) -> Option<usize> {
    let name = |at| text.run(at, |c| c != '.' && !ends_address(c));
    let mut end = name(at);
    (end > at).then_some(())?;
    while text.get(end) == Some('.') && name(end + 1) > end + 1 {
        end = name(end + 1);
    }
    Some(end)
}

/// `@name`, `#word`, and runs of the same signs.
pub(super) fn handle(text: Text) -> Option<Match> {
    let sign = text.get(0).filter(|c| matches!(c, '@' | '#' | '_' | '*'))?;
    let signs = text.run(0, |c| c == sign);
    let end = match sign {
        '@' if text.is(1, |c| c.is_ascii_alphabetic() || c == '_') => {
            text.run(1, |c| c.is_ascii_alphanumeric() || c == '_')
        }
        '#' => text.run(1, is_letter).max(signs),
        _ => signs,
    };
    Some(Match::plain(end))
}

/// `:-)` before anything but a letter or a digit.
pub(super) fn smiley(text: Text) -> Option<Match> {
    let eyes = usize::from(text.is(0, |c| c == '<' || c == '>'));
    text.is(eyes, |c| matches!(c, ':' | ';' | '=')).then_some(())?;
    let mouth = |at| {
        let found = text.is(at, |c| "()DPdpO\\{@|[]".contains(c));
        (found && text.is(at + 1, |c| !c.is_ascii_alphanumeric())).then_some(at + 1)
    };
    let nose = text.is(eyes + 1, |c| matches!(c, '-' | 'o' | '*' | '\'')).then(|| mouth(eyes + 2)).flatten();
    let end = nose.or_else(|| mouth(eyes + 1))?;
    Some(Match::plain(end).with_context(1).with_form(Form::Parentheses))
}

/// `^_^`, `(-_-)`.
pub(super) fn face(text: Text) -> Option<Match> {
    let eye = |at| text.is(at, |c| matches!(c, '-' | '^' | 'x' | '=' | '~' | '<' | '>' | '\''));
    let parenthesis = usize::from(text.get(0) == Some('('));
    let mouth = text.is(parenthesis + 1, |c| c == '_' || (parenthesis == 1 && c == '.'));
    let mut second = parenthesis + 1 + usize::from(mouth);
    (eye(parenthesis) && eye(second) && (mouth || parenthesis == 1)).then_some(())?;
    second += 1;
    if parenthesis == 1 {
        (text.get(second) == Some(')')).then_some(())?;
    }
    Some(Match::plain(second + parenthesis).with_form(Form::Parentheses))
}
