//! Classes of characters.

use std::sync::LazyLock;

/// Symbols that are tokens of their own, in hexadecimal.
const SYMBOLS: &str = "25 26 2b 5c 5e 7c 7e a1 a6-a9 ac ae-b4 b6-b9 bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 5f3-5f4 \
    600-603 606-60c 614 61b 61e-61f 66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2016-2017 201e-2023 2030-2038 \
    203b 203e-2042 2044 207a-207e 208a-208e 20a4 2100-2101 2103-2106 2108-2109 2114 2116-2118 211e-2123 2125 2127 \
    2129 212e 213a-213b 2140-2144 214a-214d 214f 2155-215e 2190-2bff 3001-3002 3012 30fb ff01-ff0f ff1a-ff20 \
    ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6";

/// Marks that belong to words although they are not letters.
const MARKS: &str = "ad 2c2-2c5 2d2-2df 2e5-2ff 300-36f 375 384-385 483-487 55a-55f 591-5bd 5bf 5c1-5c2 5c4-5c5 5c7 \
    615-61a 64b-65e 6d6-6ed 6fd-6fe 70f 711 730-74a 7eb-7f5 93c 94d 951-954 9bc 9cd a3c a4d abc acd b4d bcd e47-e4e \
    eb1-ebc ec8-ecd";

/// Zeros of the decimal digits.
const ZEROS: &str = "30 660 6f0 7c0 966 9e6 a66 ae6 b66 be6 c66 ce6 d66 e50 ed0 f20 1040 1090 17e0 1810 1946 19d0 \
    1a80 1a90 1b50 1bb0 1c40 1c50 a620 a8d0 a900 a9d0 aa50 abf0 ff10";

static SYMBOL_RANGES: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| ranges(SYMBOLS, 0));
static MARK_RANGES: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| ranges(MARKS, 0));
static DIGIT_RANGES: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| ranges(ZEROS, 9));

/// Reads ranges, each `more` longer than it is written.
fn ranges(text: &str, more: u32) -> Vec<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).expect("a hexadecimal number");
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => (number(first), number(last) + more),
        None => (number(text), number(text) + more),
    };
    text.split_whitespace().map(range).collect()
}

fn within(ranges: &[(u32, u32)], c: char) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= u32::from(c));
    after > 0 && u32::from(c) <= ranges[after - 1].1
}

/// Whether a character is a decimal digit of any script.
pub(in crate::metrics) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { within(&DIGIT_RANGES, c) }
}

/// Whether a character is a letter. Characters beyond U+FFFF are unknown to the reference.
pub(super) fn is_alphabetic(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    let roman = matches!(c, '\u{2160}'..='\u{2188}');
    u32::from(c) <= 0xffff && !roman && !is_symbol(c) && c.is_alphabetic()
}

/// Whether a character is a letter, or a mark that belongs to words.
pub(super) fn is_letter(c: char) -> bool {
    is_alphabetic(c) || (!c.is_ascii() && within(&MARK_RANGES, c))
}

pub(super) fn is_symbol(c: char) -> bool {
    within(&SYMBOL_RANGES, c)
}

pub(super) fn is_space(c: char) -> bool {
    c == '\n' || c.is_whitespace()
}
