//! Abbreviations, which keep their period.

use super::characters::{is_digit, is_space};
use super::{Match, Text, links};

/// Abbreviations inside sentences: months, days, states of the USA, companies, parts of names. A capital stands only
/// for itself.
const INSIDE: &str = "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz Az \
    Ark calif colo conn ct dak Del fla ga Ill ind kan kans ky La Mass md mich minn Miss mo mont neb nev okla Ore Pa \
    penn tenn Tex va vt Wash wis wisc wyo inc co cos corp ptys pty ptes pte pptys ppty pptes ppte ltd plc rt bancorp \
    bhd assn univ intl sys tel est ext sq jr sr bros ed.d ph.d esq etc al seq bldg blvd rd";

/// Other abbreviations: titles, places, words of companies.
const OTHER: &str = "mr mrs ms Miss dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov govs adm \
    rev maj sgt cpl pvt capt st ste ave pres lieut hon brig comdr cmdr pfc spc supt supts det mt ft adj adv asst \
    assoc ens insp mlle mme msgr sfc invt elec natl mfg mtg dept v wm jos cie cf ph treas vs a.k.a alex";

/// Abbreviations before numbers.
const BEFORE_NUMBER: &str = "ca fig figs prop no nos art bldg pp op";

/// Words that begin a sentence after a single letter with a period.
const BEGINNINGS: &str = "A About According Additionally After An As At But Earlier He Her Here However If In It \
    Last Many More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They This \
    We When While What Yet You";

/// End of the longest abbreviation with its period. A capital of the list must be a capital in the text.
fn longest(text: Text, words: &str) -> Option<usize> {
    let capitals = |word: &str| {
        word.chars().enumerate().all(|(i, c)| c.is_lowercase() || text.get(i) == Some(c) || c == '.')
    };
    let found =
        words.split_whitespace().filter(|word| capitals(word)).filter_map(|word| text.literal(0, word));
    found.filter(|&end| text.get(end) == Some('.')).max().map(|end| end + 1)
}

/// End of letters that each have a period.
pub(super) fn acronym(text: Text) -> Option<usize> {
    let letter = |at| text.is(at, |c| c.is_ascii_alphabetic()) && text.get(at + 1) == Some('.');
    let mut end = 0;
    while letter(end) {
        end += 2;
    }
    (end > 0).then_some(end)
}

/// A single letter whose period ends a sentence, because a word follows that begins one.
pub(super) fn ending_a_sentence(text: Text) -> Option<Match> {
    (acronym(text) == Some(2)).then_some(())?;
    let start = text.run(2, is_space);
    (start > 2).then_some(())?;
    let next = |word: &str| {
        let end = text.literal(start, word).filter(|_| text.get(start) == word.chars().next())?;
        text.is(end, is_space).then_some(end + 1)
    };
    let tag =
        || links::tag(text.from(start)).map(|tag| start + tag.end).filter(|&end| text.is(end, is_space));
    let reach = BEGINNINGS.split_whitespace().filter_map(next).max().or_else(|| Some(tag()? + 1))?;
    Some(Match::plain(1).with_context(reach - 1))
}

/// `No. 5`.
pub(super) fn before_number(text: Text) -> Option<Match> {
    let end = longest(text, BEFORE_NUMBER)?;
    let number = end + usize::from(text.is(end, is_space));
    text.is(number, is_digit).then(|| Match::plain(end).with_context(number + 1 - end))
}

/// An abbreviation usual inside a sentence. The reference reads two characters behind it, so that it wins over longer
/// words.
pub(super) fn usual_in_a_sentence(text: Text) -> Option<Match> {
    longest(text, INSIDE).map(|end| Match::plain(end).with_context(2))
}

/// Any other abbreviation.
pub(super) fn other(text: Text) -> Option<Match> {
    acronym(text).into_iter().chain(longest(text, OTHER)).max().map(Match::plain)
}
