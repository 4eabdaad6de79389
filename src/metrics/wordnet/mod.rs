//! WordNet's senses and their hypernyms, read from a folder of its database files.

mod files;
mod similarity;
mod wups;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use files::{Synset, read_part};

/// Parts of speech in the order in which the sense of a word is sought: the ends of the file names, and the pairs of
/// an ending and the ending of the base form.
const PARTS: [(&str, &[(&str, &str)]); 4] = [
    (
        "noun",
        &[
            ("s", ""),
            ("ses", "s"),
            ("ves", "f"),
            ("xes", "x"),
            ("zes", "z"),
            ("ches", "ch"),
            ("shes", "sh"),
            ("men", "man"),
            ("ies", "y"),
        ],
    ),
    (
        "verb",
        &[
            ("s", ""),
            ("ies", "y"),
            ("es", "e"),
            ("es", ""),
            ("ed", "e"),
            ("ed", ""),
            ("ing", "e"),
            ("ing", ""),
        ],
    ),
    ("adj", &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")]),
    ("adv", &[]),
];
const NOUN: usize = 0;
const VERB: usize = 1;

/// WordNet: the senses of English words and the hypernyms of the senses.
///
/// It is not shipped; Debian's package `wordnet-base` puts it into `/usr/share/wordnet`. The meaning of every metric
/// follows WordNet 3.0.
pub struct WordNet {
    parts: Vec<Part>,
}

/// Words of one part of speech.
struct Part {
    /// Synsets of each word, the most frequent sense first, as indices of `synsets`.
    senses: HashMap<String, Vec<u32>>,
    /// Base forms of irregular words.
    exceptions: HashMap<String, Vec<String>>,
    synsets: Vec<Synset>,
}

/// Reason why a folder of WordNet cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WordNetError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A line that is not of WordNet's format.
    #[error("{path}, line {line}: {reason}")]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// Defect of the line.
        reason: &'static str,
    },
    /// Hypernyms that form a cycle.
    #[error("{path}: the hypernyms form a cycle")]
    Cycle {
        /// Path of the file.
        path: PathBuf,
    },
}

impl WordNet {
    /// Reads `index.*`, `data.*` and `*.exc` of nouns, verbs, adjectives and adverbs in a folder, about 28 MB.
    ///
    /// # Errors
    /// A file cannot be read, is not of the format of wndb(5WN), or its hypernyms form a cycle.
    pub fn open(folder: &Path) -> Result<Self, WordNetError> {
        let parts = PARTS.iter().map(|(name, _)| read_part(folder, name)).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// Forms of a lower-case word that WordNet has as words of this part of speech: the word itself, then its base
    /// forms.
    fn forms(&self, word: &str, part: usize) -> Vec<String> {
        let Part { senses, exceptions, .. } = &self.parts[part];
        let regular = || {
            let rules = PARTS[part].1.iter();
            rules.filter_map(|(old, new)| Some(format!("{}{new}", word.strip_suffix(old)?))).collect()
        };
        let base = exceptions.get(word).cloned().unwrap_or_else(regular);
        let mut distinct = HashSet::new();
        let forms = std::iter::once(word.to_string()).chain(base);
        forms.filter(|form| senses.contains_key(form) && distinct.insert(form.clone())).collect()
    }

    /// Shortest base form of a verb, or the word itself if WordNet has none: `WordNetLemmatizer.lemmatize` of nltk.
    pub(super) fn verb_lemma(&self, word: &str) -> String {
        self.forms(word, VERB)
            .into_iter()
            .min_by_key(|form| form.chars().count())
            .unwrap_or_else(|| word.into())
    }

    /// Whether a lower-case word is the plural of a noun of at least three letters that WordNet has.
    pub(super) fn is_plural(&self, word: &str) -> bool {
        let regular = word.ends_with('s') && !["ss", "us", "is"].iter().any(|ending| word.ends_with(ending));
        let plural = regular || self.parts[NOUN].exceptions.contains_key(word);
        plural && self.forms(word, NOUN).iter().any(|form| form != word && form.len() >= 3)
    }

    /// Part of speech and synset of the first sense of a word in any case.
    fn first_sense(&self, word: &str) -> Option<(usize, u32)> {
        let word = word.to_lowercase();
        (0..self.parts.len()).find_map(|part| {
            let form = self.forms(&word, part).into_iter().next()?;
            Some((part, *self.parts[part].senses[&form].first()?))
        })
    }
}

#[cfg(test)]
mod tests;
