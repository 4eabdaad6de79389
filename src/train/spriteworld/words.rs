//! English words for concepts: articles, plurals, numbers, and invented words.

use super::random::Split;

/// Invented words without a meaning: short, pronounceable and distinct.
const INVENTED: [&str; 40] = [
    "dax", "blick", "wug", "toma", "fep", "zorp", "kiki", "bouba", "gazzer", "modi", "tulver", "pim", "sarn",
    "dofu", "nerk", "quib", "lorp", "vash", "yeeb", "glim", "hux", "jop", "kren", "mib", "noop", "plon",
    "rath", "skeb", "thole", "urv", "veeg", "wipso", "zib", "brup", "cazz", "drel", "folm", "gorb", "halk",
    "istle",
];
/// Number of first invented words that occur in training.
const TRAINED: usize = 30;

/// Invented words of a split: those of the training occur in no other split.
pub fn invented(split: Split) -> &'static [&'static str] {
    match split {
        Split::Train => &INVENTED[..TRAINED],
        Split::HeldOutSeeds | Split::HeldOutCombinations => &INVENTED[TRAINED..],
    }
}

/// Concepts with a plural or uncountable name: "some grapes".
const UNCOUNTED: [&str; 53] = [
    "bacon",
    "beans",
    "blueberries",
    "books",
    "bread",
    "briefs",
    "broccoli",
    "bubbles",
    "butter",
    "chains",
    "cherries",
    "chopsticks",
    "custard",
    "eyes",
    "fireworks",
    "flatbread",
    "fog",
    "footprints",
    "garlic",
    "glasses",
    "gloves",
    "goggles",
    "grapes",
    "headphones",
    "houses",
    "ice",
    "jeans",
    "lungs",
    "maracas",
    "oden",
    "pancakes",
    "peanuts",
    "popcorn",
    "rice",
    "sake",
    "salt",
    "scissors",
    "shorts",
    "skis",
    "soap",
    "socks",
    "spaghetti",
    "sparkles",
    "sunglasses",
    "sushi",
    "ginger",
    "coral",
    "construction",
    "infinity",
    "information",
    "rock-salt",
    "wood",
    "yarn",
];

/// Irregular plurals, by the last word of the name.
const PLURALS: [(&str, &str); 25] = [
    ("fish", "fish"),
    ("blowfish", "blowfish"),
    ("jellyfish", "jellyfish"),
    ("sheep", "sheep"),
    ("deer", "deer"),
    ("moose", "moose"),
    ("bison", "bison"),
    ("squid", "squid"),
    ("shrimp", "shrimp"),
    ("aircraft", "aircraft"),
    ("mouse", "mice"),
    ("goose", "geese"),
    ("ox", "oxen"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("man", "men"),
    ("woman", "women"),
    ("snowman", "snowmen"),
    ("child", "children"),
    ("person", "people"),
    ("leaf", "leaves"),
    ("wolf", "wolves"),
    ("knife", "knives"),
    ("loaf", "loaves"),
    ("scarf", "scarves"),
];

/// Words in -o with the plural -es; the others take -s ("avocados").
const OES: [&str; 7] = ["potato", "tomato", "volcano", "mosquito", "mango", "buffalo", "domino"];

/// Name of a concept in a sentence.
pub fn name(concept: &str) -> String {
    concept.replace('-', " ")
}

/// Whether the concept has a countable name.
pub fn is_countable(concept: &str) -> bool {
    !UNCOUNTED.contains(&concept)
}

/// Name with an article: "a flamingo", "an owl", "some grapes".
pub fn with_article(concept: &str) -> String {
    let name = name(concept);
    if !is_countable(concept) {
        return format!("some {name}");
    }
    format!("{} {name}", if begins_with_vowel_sound(&name) { "an" } else { "a" })
}

fn begins_with_vowel_sound(name: &str) -> bool {
    // Words that are spelt with a vowel but begin with the sound "y" or "w", and words with a silent
    // consonant.
    const SAID_WITH_CONSONANT: [&str; 8] = ["uni", "ewe", "eu", "one", "use", "ufo", "uk", "ukulele"];
    const SAID_WITH_VOWEL: [&str; 5] = ["hour", "honest", "heir", "x ray", "mri"];
    if SAID_WITH_CONSONANT.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    name.starts_with(['a', 'e', 'i', 'o', 'u']) || SAID_WITH_VOWEL.iter().any(|start| name.starts_with(start))
}

/// Plural of a name: "flamingos", "foxes", "cherry trees", "mice".
pub fn plural(concept: &str) -> String {
    let name = name(concept);
    if !is_countable(concept) {
        return name;
    }
    match name.rsplit_once(' ') {
        Some((first, last)) => format!("{first} {}", plural_of_word(last)),
        None => plural_of_word(&name),
    }
}

fn plural_of_word(word: &str) -> String {
    if let Some((_, many)) = PLURALS.iter().find(|(one, _)| *one == word) {
        return many.to_string();
    }
    let before_last = word.chars().rev().nth(1).unwrap_or('a');
    if let Some(stem) = word.strip_suffix('y').filter(|_| !"aeiou".contains(before_last)) {
        return format!("{stem}ies");
    }
    let hisses = ["s", "x", "z", "sh"].iter().any(|end| word.ends_with(end));
    // The "ch" of "stomach" is pronounced k.
    let ch = word.ends_with("ch") && word != "stomach";
    if word.ends_with('z') && !word.ends_with("zz") {
        return format!("{word}zes");
    }
    if hisses || ch || OES.contains(&word) { format!("{word}es") } else { format!("{word}s") }
}

/// Number word for 0 to 4.
pub fn number(count: usize) -> &'static str {
    ["zero", "one", "two", "three", "four"][count]
}

/// Capitalises the first letter.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Joins parts to a list: "a cat", "a cat and a dog", "a cat, a dog and a bee".
pub fn list(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
