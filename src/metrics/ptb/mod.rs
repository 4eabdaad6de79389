//! Tokenizer of captions: the words that Stanford's PTBTokenizer 3.4.1 and pycocoevalcap's list of punctuation leave
//! for CIDEr.
//!
//! At each place every rule states how far it matches, with the text that it needs behind the token; the longest
//! match wins, and of equal ones the first. The rules follow the Penn Treebank: `can't` is `ca n't`, `U.S.` keeps its
//! periods, `5%` is two tokens.

mod characters;
mod text;
mod numbers;
mod links;
mod abbreviations;
mod words;
mod marks;

pub(super) use characters::is_digit;
use text::{Form, Match, Text};

/// Tokens that pycocoevalcap drops. It names the parentheses in capitals, so that `-lrb-` and `-rrb-` stay.
const PUNCTUATION: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

type Rule = fn(Text<'_>) -> Option<Match>;

/// Rules for tokens, by falling precedence among matches of one length.
const RULES: &[Rule] = &[
    words::programming_language,
    words::fused_pair,
    links::tag,
    links::entity,
    words::word_before_clitic,
    words::word_before_not,
    words::y_before_word,
    words::word,
    words::apostrophe_word,
    links::url,
    links::host,
    links::email,
    links::handle,
    marks::escaped_asterisks,
    words::clitic,
    words::not,
    numbers::date,
    numbers::number,
    numbers::superscript,
    numbers::fraction,
    numbers::fraction_sign,
    words::treebank_word,
    words::slashed,
    numbers::dollar,
    numbers::currency,
    abbreviations::ending_a_sentence,
    abbreviations::before_number,
    abbreviations::usual_in_a_sentence,
    abbreviations::other,
    words::year,
    links::file_name,
    words::word_before_comma,
    numbers::phone,
    links::smiley,
    links::face,
    marks::marks,
    marks::omission,
    words::dotted_compound,
    words::dotted_compound_before_comma,
    words::compound,
    words::compound_before_comma,
    words::joined_capitals,
    words::joined_capitals_before_comma,
    marks::opening_apostrophe,
    marks::quotes,
    words::clitic_in_a_word,
    marks::symbol,
];

/// Splits a caption into lower-case words as CIDEr of pycocoevalcap counts them. Punctuation is dropped, parentheses
/// are `-lrb-` and `-rrb-`, characters that the reference does not know separate words.
///
/// Differences from the reference: it reads all captions as one text, so that a single letter with a period at the end
/// of a caption may depend on the next caption, its list of letters is that of an old Unicode version, and it does not
/// know `PTY.` and `MFG.` in capitals. Here each caption stands alone, and a token has at most 512 characters, which
/// bounds the time.
///
/// Source: `PTBTokenizer -preserveLines -lowerCase` of stanford-corenlp-3.4.1 in pycocoevalcap 1.2.
///
/// ```
/// let words = flamingo::metrics::caption_words("A man can't ride (5%) in the U.S.!");
/// assert_eq!(words.join(" "), "a man ca n't ride -lrb- 5 % -rrb- in the u.s.");
/// ```
pub fn caption_words(caption: &str) -> Vec<String> {
    let line: Vec<char> = caption.chars().map(|c| if c == '\n' { ' ' } else { c }).chain(['\n']).collect();
    let mut words = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let text = Text::new(&line, at);
        let mut best: Option<Match> = None;
        for found in RULES.iter().filter_map(|rule| rule(text)) {
            if best.as_ref().is_none_or(|best| found.reach > best.reach) {
                best = Some(found);
            }
        }
        match best {
            Some(found) => {
                push(&mut words, &found.form.apply(text.before(found.end)));
                at += found.end;
            }
            None => at += 1,
        }
    }
    words
}

/// Adds a token unless it is punctuation. A token with spaces (a telephone number, `1 1/2`) counts as several words.
fn push(words: &mut Vec<String>, token: &str) {
    if !PUNCTUATION.contains(&token) {
        words.extend(token.split_whitespace().map(String::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(caption: &str, expected: &str) {
        assert_eq!(caption_words(caption).join(" "), expected, "{caption:?}");
    }

    #[test]
    fn splits_words_as_the_penn_treebank() {
        check("A dog's ball isn't here, we'll see.", "a dog 's ball is n't here we 'll see");
        check("I cannot; gonna 'tis", "i can not gon na 't is");
        check("rock 'n' roll o'clock y'all", "rock 'n' roll o'clock y' all");
        check("state-of-the-art and/or w/o", "state-of-the-art and/or w/o");
        check("the U.S. and Mr. Smith at 5 p.m.", "the u.s. and mr. smith at 5 p.m.");
        check("\u{201c}caf\u{e9}\u{201d} \u{1f600} \u{2013} \u{65e5}\u{672c}", "caf\u{e9} \u{65e5}\u{672c}");
        check("$5.50 10% 1/2 3 1/2 (555) 555-1234", "$ 5.50 10 % 1/2 3 1/2 -lrb-555-rrb- 555-1234");
        check("http://a.b/c?d=1, me@foo.com #tag", "http://a.b/c?d=1 me@foo.com #tag");
        check("", "");
    }

    #[test]
    fn tokens_of_hostile_captions_are_bounded() {
        for part in ["a'", "<a b", "a@", "1.", "a-", "&", "www.", "(1", "a/", ".a", "\u{1f600}", "'"] {
            let words = caption_words(&part.repeat(2000));
            assert!(words.iter().all(|word| word.chars().count() <= 512), "{part}");
        }
    }
}
