//! Catalogue of the models that are known by name. The data stand in `catalogue.json`; the figures come from the cards and
//! papers that `docs/models.md` names, and parameters are counted from shapes.

use std::sync::OnceLock;

use serde::Deserialize;

use super::name::{ModelName, RepoName};

/// A model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `owner/name`.
    pub name: String,
    pub family: String,
    /// Licence in plain words.
    pub licence: String,
    pub trained_on: String,
    /// Published quality, with its source.
    pub quality: String,
    /// Treatment of videos.
    pub frames: String,
    /// Absent if unknown.
    pub parameters: Option<Parameters>,
    /// Bytes of the files of the model's own repository, where they are known.
    pub download_bytes: Option<u64>,
    /// Whether the hub asks for consent to terms.
    #[serde(default)]
    pub gated: bool,
    /// Files of the repository, with at most one star each; absent: chosen by their usual names.
    pub files: Option<Vec<String>>,
    /// Repository of the tokenizer, for a repository without one.
    pub tokenizer: Option<String>,
    /// Base repositories, for a checkpoint without them.
    pub assembly: Option<Assembly>,
    pub note: Option<String>,
}

/// Number of parameters by part.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    pub vision: u64,
    pub connector: u64,
    pub cross_attention: u64,
    pub language: u64,
    /// Those of the language model's embedding and head, which have at least 8 bits.
    pub vocabulary: u64,
    /// Bits of a weight of the vision encoder beside a quantised language model.
    #[serde(default = "f32_bits")]
    pub vision_bits: u64,
}

fn f32_bits() -> u64 {
    32
}

/// Parts of an OpenFlamingo checkpoint that lie in other repositories.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assembly {
    pub language: String,
    pub vision: String,
    pub cross_attn_every_n_layers: usize,
}

/// Number formats of [`Parameters::memory`], with the bits of a quantised weight, its share of the scale of its block included.
const FORMATS: [(&str, f64); 4] = [("f32", 32.0), ("bf16", 16.0), ("q8_0", 8.5), ("q4k", 4.5)];

/// Least bits of a weight of embedding and head: those of q8_0.
const VOCABULARY_BITS: f64 = 8.5;

impl Parameters {
    /// Number of all parameters.
    pub fn total(&self) -> u64 {
        self.vision + self.connector + self.cross_attention + self.language
    }

    /// Estimated bytes of the weights at each number format. Quantisation applies to language model and cross-attention.
    pub fn memory(&self) -> [(&'static str, u64); 4] {
        FORMATS.map(|(name, bits)| {
            let is_quantised = bits < 16.0;
            let outer = |own: f64| if is_quantised { own } else { bits };
            let parts = [
                (self.language - self.vocabulary + self.cross_attention, bits),
                (self.vocabulary, bits.max(VOCABULARY_BITS)),
                (self.vision, outer(self.vision_bits as f64)),
                (self.connector, outer(32.0)),
            ];
            (name, (parts.iter().map(|(n, bits)| *n as f64 * bits).sum::<f64>() / 8.0) as u64)
        })
    }
}

impl Entry {
    /// Names of the other repositories that the model needs.
    pub fn bases(&self) -> Vec<&str> {
        let parts = self.assembly.iter().flat_map(|parts| [&parts.language, &parts.vision]);
        parts.chain(&self.tokenizer).map(String::as_str).collect()
    }
}

/// Returns all models, in the order of the file.
pub fn all() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        serde_json::from_str(include_str!("catalogue.json")).expect("a test reads the catalogue")
    })
}

/// Finds a model by its name, whose letters may have another case.
pub fn find(repo: &RepoName) -> Option<&'static Entry> {
    let name = repo.to_string();
    all().iter().find(|entry| entry.name.eq_ignore_ascii_case(&name))
}

/// Returns a name in the catalogue's spelling, if it has the model.
pub fn canonical(name: ModelName) -> ModelName {
    match find(&name.repo).map(|entry| RepoName::parse(&entry.name)) {
        Some(Ok(repo)) => ModelName { repo, ..name },
        _ => name,
    }
}

/// Finds a model by its name without the owner.
pub fn by_short_name(text: &str) -> Option<&'static Entry> {
    all()
        .iter()
        .find(|entry| entry.name.split_once('/').is_some_and(|(_, name)| name.eq_ignore_ascii_case(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_owners_and_are_unique() {
        let mut names: Vec<_> = all().iter().map(|entry| entry.name.to_lowercase()).collect();
        assert!(names.len() >= 16, "{names:?}");
        for entry in all() {
            let repo = RepoName::parse(&entry.name).unwrap();
            assert_eq!(find(&repo).unwrap().name, entry.name);
            for base in entry.bases() {
                ModelName::parse(base).unwrap();
            }
            assert!(!entry.licence.is_empty() && !entry.trained_on.is_empty() && !entry.quality.is_empty());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }

    /// The tables of `docs/models.md` and the catalogue say the same.
    #[test]
    fn the_documentation_has_every_model() {
        let text = include_str!("../../../../docs/models.md");
        for entry in all() {
            let row =
                format!("| {} | {} | {} | {} |", entry.name, entry.quality, entry.licence, entry.trained_on);
            assert!(text.contains(&row), "{row}");
            let Some(parameters) = entry.parameters else { continue };
            let billions = |n: u64| format!("{:.1}", n as f64 / 1e9);
            let memory = parameters.memory().map(|(_, bytes)| format!("{} GB", billions(bytes)));
            let row =
                format!("| {} | {} B | {} |", entry.name, billions(parameters.total()), memory.join(" | "));
            assert!(text.contains(&row), "{row}");
        }
    }

    #[test]
    fn memory_is_bits_times_parameters() {
        let parameters = Parameters {
            vision: 100,
            connector: 10,
            cross_attention: 200,
            language: 1000,
            vocabulary: 80,
            vision_bits: 32,
        };
        assert_eq!(parameters.total(), 1310);
        let memory = parameters.memory();
        // 1120 weights of 4.5 bits, 80 of 8.5, 110 of 32.
        assert_eq!(memory, [("f32", 5240), ("bf16", 2620), ("q8_0", 1715), ("q4k", 1155)]);
        // 40 bytes less: two bytes per weight of the encoder.
        let memory = Parameters { vision_bits: 16, ..parameters }.memory();
        assert_eq!(memory[2..], [("q8_0", 1515), ("q4k", 955)]);
    }
}
