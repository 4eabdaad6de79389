//! The world: all clips of all splits, generated on demand.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::augmentation::augment;
use super::cast::Cast;
use super::clip::{Clip, Episode};
use super::concepts::WorldError;
use super::family::{Family, SceneBuilder};
use super::icons::IconFile;
use super::random::{Purpose, Split, Stream, one_of, stream};
use super::scene::{Drawings, Scene};
use super::stage::Stage;
use super::words::invented;

/// Least number of concepts: a scene of two needs two other concepts for its near misses.
const MIN_CONCEPTS: usize = 4;

/// Configuration of a world.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldConfig {
    /// Icon sets as files of Iconify JSON, one style each.
    pub icons: Vec<PathBuf>,
    /// Icon names. If empty, all names that every set has; these are many, and some are similar.
    pub concepts: Vec<String>,
    /// Seed of all clips.
    pub seed: u64,
    /// Least and greatest length of a clip in seconds (frames at one per second), at least 3.
    pub frames: (usize, usize),
    /// Least and greatest length of the longer side of a frame, in pixels.
    pub long_side: (u32, u32),
    /// Kinds of scenes, all equally likely; a kind named twice is twice as likely. If empty, all kinds.
    pub families: Vec<Family>,
    /// Share of the drawings and backgrounds of training clips that are changed: colours, outline, shape, hidden parts,
    /// blur. From 0 to 1; the other splits are never changed.
    pub augment: f64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        let icon = |set: &str| PathBuf::from(format!("data/icons/{set}.json"));
        Self {
            icons: ["noto", "twemoji", "fluent-emoji-flat"].map(icon).into(),
            concepts: Vec::new(),
            seed: 0,
            frames: (4, 8),
            long_side: (128, 320),
            families: Vec::new(),
            augment: 0.0,
        }
    }
}

impl WorldConfig {
    fn check(&self) -> Result<(), WorldError> {
        let (frames, side) = (self.frames, self.long_side);
        let wrong = |setting, found, rule| Err(WorldError::Setting { setting, found, rule });
        if self.icons.is_empty() {
            return wrong("icons", "[]".into(), "at least one icon set is needed");
        }
        if frames.0 < 3 || frames.0 > frames.1 || frames.1 > 600 {
            let rule = "not two ascending numbers from 3 to 600";
            return wrong("frames", format!("{frames:?}"), rule);
        }
        if side.0 < 32 || side.0 > side.1 || side.1 > 4096 {
            let rule = "not two ascending numbers from 32 to 4096";
            return wrong("long_side", format!("{side:?}"), rule);
        }
        if !(0.0..=1.0).contains(&self.augment) {
            return wrong("augment", self.augment.to_string(), "not from 0 to 1");
        }
        Ok(())
    }
}

/// World of clips. It is immutable and can be shared between threads. A clip is a function of (seed, split,
/// index) only.
pub struct World {
    config: WorldConfig,
    concepts: Vec<String>,
    drawings: Drawings,
    cast: Cast,
}

impl World {
    /// Reads the icon sets and checks the configuration.
    ///
    /// # Errors
    /// A file cannot be read, a drawing is invalid, a concept is unknown or named twice, or a setting is
    /// invalid.
    pub fn new(config: WorldConfig) -> Result<Self, WorldError> {
        config.check()?;
        let files = config.icons.iter().map(|path| IconFile::read(path)).collect::<Result<Vec<_>, _>>()?;
        let concepts = if config.concepts.is_empty() { shared(&files) } else { config.concepts.clone() };
        let mut names = BTreeSet::new();
        for concept in &concepts {
            if !files.iter().any(|file| file.has(concept)) {
                let (concept, paths) = (concept.clone(), config.icons.clone());
                return Err(WorldError::UnknownConcept { concept, paths });
            }
            if !names.insert(concept) {
                return Err(WorldError::ConceptTwice { concept: concept.clone() });
            }
        }
        if concepts.len() < MIN_CONCEPTS {
            return Err(WorldError::TooFewConcepts { needed: MIN_CONCEPTS, found: concepts.len() });
        }
        let drawings = files.iter().map(|file| file.drawings(&concepts)).collect::<Result<Drawings, _>>()?;
        let cast = Cast::new(&concepts, &drawings, config.seed);
        Ok(Self { config, concepts, drawings, cast })
    }

    /// Icon names of the concepts, in the order of the configuration, or sorted if it has none.
    pub fn concepts(&self) -> &[String] {
        &self.concepts
    }

    /// Concepts with their styles and held-out pairs.
    pub fn cast(&self) -> &Cast {
        &self.cast
    }

    /// Drawings by style and concept.
    pub fn drawings(&self) -> &Drawings {
        &self.drawings
    }

    /// Generates the clip of this index.
    pub fn clip(&self, split: Split, index: u64) -> Clip<'_> {
        let rng = &mut stream(self.config.seed, split, Purpose::Clip, index);
        let wanted: &[Family] =
            if self.config.families.is_empty() { &Family::ALL } else { &self.config.families };
        let all = |moving: bool| wanted.iter().copied().filter(|f| !moving || f.moves()).collect::<Vec<_>>();
        let mut families = all(split == Split::HeldOutCombinations);
        if families.is_empty() {
            families = vec![Family::Single];
        }
        let family = one_of(rng, &families);
        let scene = self.scene_builder(rng, split).scene(rng, family);
        self.augmented(self.clip_of(rng, scene), split, Purpose::ClipAugmentation, index)
    }

    /// Generates a clip of one frame with one to three concepts.
    pub fn image_clip(&self, split: Split, index: u64) -> Clip<'_> {
        let rng = &mut stream(self.config.seed, split, Purpose::Image, index);
        let mut builder = self.scene_builder(rng, split);
        builder.stage.seconds = 1;
        let scene = builder.together(rng);
        self.augmented(self.clip_of(rng, scene), split, Purpose::ImageAugmentation, index)
    }

    /// Generates an episode: two invented words of this split for two concepts, `shots` clips of each, and a query clip.
    /// Without shots the answer can only be guessed.
    pub fn naming_episode(&self, split: Split, index: u64, shots: usize) -> Episode<'_> {
        let rng = &mut stream(self.config.seed, split, Purpose::Episode, index);
        // The query clip is drawn first, because the split applies to it.
        let query = self.single(rng, split, None);
        let asked = query.scene().fact.concepts()[0];
        let other = self.cast.other_than(rng, &[asked]);
        let swapped = rng.random_bool(0.5);
        let meanings = if swapped { [other, asked] } else { [asked, other] };
        let words = two_words(rng, invented(split));
        let mut order: Vec<usize> = (0..2 * shots).map(|i| i % 2).collect();
        shuffle(rng, &mut order);
        let support =
            order.into_iter().map(|which| (self.single(rng, split, Some(meanings[which])), which)).collect();
        Episode { words, meanings, support, query, asked: usize::from(swapped) }
    }

    /// Augments a clip of the training split.
    fn augmented<'a>(&self, mut clip: Clip<'a>, split: Split, purpose: Purpose, index: u64) -> Clip<'a> {
        if split == Split::Train && self.config.augment > 0.0 {
            let rng = &mut stream(self.config.seed, split, purpose, index);
            augment(&mut clip.scene, self.config.augment, rng);
        }
        clip
    }

    fn single(&self, rng: &mut Stream, split: Split, concept: Option<usize>) -> Clip<'_> {
        let scene = self.scene_builder(rng, split).single(rng, concept);
        self.clip_of(rng, scene)
    }

    fn scene_builder(&self, rng: &mut Stream, split: Split) -> SceneBuilder<'_> {
        let seconds = rng.random_range(self.config.frames.0..=self.config.frames.1);
        let stage = Stage::new(rng, self.config.long_side, seconds);
        let style = rng.random_bool(0.5).then(|| rng.random_range(0..self.drawings.len()));
        SceneBuilder { cast: &self.cast, drawings: &self.drawings, split, stage, style }
    }

    fn clip_of(&self, rng: &mut Stream, scene: Scene) -> Clip<'_> {
        let Self { concepts, drawings, cast, .. } = self;
        Clip { concepts, drawings, cast, scene, words_seed: rng.random() }
    }
}

/// Icon names that every file has, sorted.
fn shared(files: &[IconFile]) -> Vec<String> {
    let [first, rest @ ..] = files else { return Vec::new() };
    first.names().filter(|name| rest.iter().all(|file| file.has(name))).map(str::to_string).collect()
}

fn two_words(rng: &mut Stream, words: &[&'static str]) -> [&'static str; 2] {
    let first = rng.random_range(0..words.len());
    let step = rng.random_range(1..words.len());
    [words[first], words[(first + step) % words.len()]]
}

fn shuffle<T>(rng: &mut Stream, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}
