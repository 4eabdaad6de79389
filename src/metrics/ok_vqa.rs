//! Stems of answers in OK-VQA.

use super::{WordNet, caption_words};

/// Words with their stems, which the rules would get wrong. The table of the reference without the words with
/// apostrophes, which its tokenizer splits before it looks for them.
const STEMS: &str = "\
    police:police las:las vegas:vegas yes:yes jeans:jean morning:morn clothes:cloth are:are riding:ride leaves:leaf \
    dangerous:danger clothing:cloth texting:text kiting:kite firefighters:firefight ties:tie married:married \
    teething:teeth gloves:glove tennis:tennis dining:dine directions:direct waves:wave christmas:christmas \
    drives:drive pudding:pud coding:code plating:plate quantas:quanta hornes:horn graves:grave mating:mate paned:pane \
    alertness:alert sunbathing:sunbath tenning:ten wetness:wet urinating:urine sickness:sick braves:brave \
    firefighting:firefight lenses:lens reflections:reflect backpackers:backpack eatting:eat designers:design \
    curiousity:curious playfulness:play blindness:blind hawke:hawk tomatoe:tomato rodeoing:rodeo brightness:bright \
    circuses:circus skateboarders:skateboard staring:stare electronics:electron electicity:elect mountainous:mountain \
    socializing:social hamburgers:hamburg caves:cave transitions:transit wading:wade creame:cream toileting:toilet \
    sautee:saute buildings:build belongings:belong stockings:stock walle:wall cumulis:cumuli travelers:travel \
    conducter:conduct browsing:brows pooping:poop haircutting:haircut toppings:top hearding:heard sunblocker:sunblock \
    bases:base markings:mark mopeds:mope kindergartener:kindergarten pies:pie scrapbooking:scrapbook couponing:coupon \
    meetings:meet elevators:elev lowes:low childrens:children shelves:shelve paintings:paint raines:rain paring:pare \
    expressions:express routes:rout pease:peas vastness:vast awning:awn drunkenness:drunken teasing:teas \
    conferences:confer ripeness:ripe suspenders:suspend earnings:earn reporters:report containers:contain \
    corgie:corgi porche:porch microwaves:microwave sadness:sad apartments:apart oxygenize:oxygen striping:stripe \
    purring:pure professionals:profession piping:pipe potatoe:potato emirates:emir womens:women wilderness:wilder \
    propellers:propel alpes:alp charioteering:chariot swining:swine illness:ill crepte:crept adhesives:adhesive \
    decorations:decor rabbies:rabbi overseas:oversea travellers:travel casings:case smugness:smug doves:dove \
    nationals:nation mustange:mustang ringe:ring gondoliere:gondolier vacationing:vacate reminders:remind \
    baldness:bald settings:set glaced:glace coniferous:conifer revelations:revel personals:person badness:bad \
    projections:project polarizing:polar vandalizers:vandal minerals:miner protesters:protest controllers:control \
    weddings:wed sometimes:sometime earing:ear";

/// Words that are their own plural.
const UNCOUNTABLE: &str = "equipment fish information jeans money rice series sheep species";

/// Endings of plurals and of their singulars; the first that fits counts. `=` stands for the beginning of the word,
/// `abc!` for a letter that is none of these. The rules of the Python package inflection 0.5.1.
const SINGULARS: &str = "zombies:zombie kine:cow moves:move sexes:sex children:child humans:human men:man \
    people:person databases:database quizzes:quiz matrices:matrix vertices:vertex indices:index passersby:passerby \
    =oxen:ox aliases:alias alias:alias statuses:status status:status octopus:octopus octopi:octopus virus:virus \
    viri:virus =axis:axis =axes:axis crisis:crisis crises:crisis testis:testis testes:testis shoes:shoe oes:o \
    buses:bus bus:bus mice:mouse lice:louse xes:x ches:ch sses:ss shes:sh movies:movie series:series aeiouy!ies:y \
    quies:quy lves:lf rves:rf tives:tive hives:hive f!ves:fe thesis:thesis theses:thesis synopsis:synopsis \
    synopses:synopsis prognosis:prognosis prognoses:prognosis parenthesis:parenthesis parentheses:parenthesis \
    diagnosis:diagnosis diagnoses:diagnosis basis:basis bases:basis analysis:analysis analyses:analysis ta:tum \
    ia:ium news:news ss:ss s:";

/// Stemmer of answers, which OK-VQA compares by stems.
///
/// Source: `OKVQAStemmer` of open_flamingo 2.0.1. It asks nltk's part-of-speech tagger whether a word is a plural;
/// that tagger is a trained model, which is not here. [`OkVqaStemmer::stem`] asks WordNet instead;
/// [`OkVqaStemmer::stem_word`] takes the answer of a tagger and then equals the reference.
pub struct OkVqaStemmer<'a> {
    words: &'a WordNet,
}

impl<'a> OkVqaStemmer<'a> {
    /// Makes a stemmer that takes verbs and plurals from WordNet.
    pub fn new(words: &'a WordNet) -> Self {
        Self { words }
    }

    /// Replaces each word of an answer by its stem; compare the results by [`vqa_accuracy`](super::vqa_accuracy). A
    /// word is a plural if it is irregular or ends in `s` (not `ss`, `us`, `is`) and WordNet has its singular.
    pub fn stem(&self, answer: &str) -> String {
        let stems =
            caption_words(answer).into_iter().map(|word| self.stem_word(&word, self.words.is_plural(&word)));
        stems.collect::<Vec<_>>().join(" ")
    }

    /// Stem of a lower-case word, where `plural` says whether it is a noun in the plural: by a table, else the base
    /// form of a word in `ing` as a verb, else the singular of a plural.
    pub fn stem_word(&self, word: &str, plural: bool) -> String {
        let table = STEMS.split_whitespace().filter_map(|pair| pair.split_once(':'));
        if let Some((_, stem)) = table.into_iter().find(|(name, _)| *name == word) {
            return stem.into();
        }
        match plural {
            _ if word.ends_with("ing") => self.words.verb_lemma(word),
            true => singular(word),
            false => word.into(),
        }
    }
}

/// Singular of a noun in lower case.
fn singular(word: &str) -> String {
    let uncountable =
        |name: &str| word.strip_suffix(name).is_some_and(|rest| !rest.ends_with(char::is_alphanumeric));
    if UNCOUNTABLE.split(' ').any(uncountable) {
        return word.into();
    }
    let apply = |(plural, ending): (&str, &str)| {
        let whole = plural.strip_prefix('=');
        let (other, plural) = plural.split_once('!').unwrap_or(("", whole.unwrap_or(plural)));
        let rest = word.strip_suffix(plural)?;
        let before = other.is_empty() || rest.chars().next_back().is_some_and(|c| !other.contains(c));
        (before && (whole.is_none() || rest.is_empty())).then(|| format!("{rest}{ending}"))
    };
    let rules = SINGULARS.split_whitespace().filter_map(|rule| rule.split_once(':'));
    rules.into_iter().find_map(apply).unwrap_or_else(|| word.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_have_singulars() {
        for (plural, expected) in [
            ("dogs", "dog"),
            ("boxes", "box"),
            ("ponies", "pony"),
            ("movies", "movie"),
            ("knives", "knife"),
            ("wolves", "wolf"),
            ("men", "man"),
            ("oxen", "ox"),
            ("axes", "axis"),
            ("taxes", "tax"),
            ("sheep", "sheep"),
            ("glass", "glass"),
            ("toys", "toy"),
            ("", ""),
        ] {
            assert_eq!(singular(plural), expected, "{plural}");
        }
    }
}
