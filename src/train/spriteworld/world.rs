//! The world: every clip of every split, made on demand.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::cast::Cast;
use super::clip::{Clip, Episode, NAME_IT, naming};
use super::concepts::WorldError;
use super::family::{Family, Maker};
use super::icons::IconFile;
use super::random::{Purpose, Split, Stream, one_of, stream};
use super::scene::{Drawings, Scene};
use super::stage::Stage;
use super::words::INVENTED;

/// A pair needs another pair to be mistaken for.
const FEWEST_CONCEPTS: usize = 4;

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldConfig {
    /// Icon sets as Iconify JSON, one style each.
    pub icons: Vec<PathBuf>,
    /// Icon names; empty: all that every set has. Those are many, and some differ little.
    pub concepts: Vec<String>,
    pub seed: u64,
    /// Fewest and most seconds of a clip, which are frames at one per second. At least 3.
    pub frames: (usize, usize),
    /// Smallest and largest longer side of a frame, in pixels.
    pub long_side: (u32, u32),
    /// The kinds of scenes, each as likely; named twice, twice as likely. Empty: all.
    pub families: Vec<Family>,
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
        }
    }
}

impl WorldConfig {
    fn check(&self) -> Result<(), WorldError> {
        let (frames, side) = (self.frames, self.long_side);
        let wrong = |setting, found, rule| Err(WorldError::Setting { setting, found, rule });
        if self.icons.is_empty() {
            return wrong("icons", "[]".into(), "and needs at least one icon set");
        }
        if frames.0 < 3 || frames.0 > frames.1 || frames.1 > 600 {
            let rule = "which should be two rising numbers from 3 to 600";
            return wrong("frames", format!("{frames:?}"), rule);
        }
        if side.0 < 32 || side.0 > side.1 || side.1 > 4096 {
            let rule = "which should be two rising numbers from 32 to 4096";
            return wrong("long_side", format!("{side:?}"), rule);
        }
        Ok(())
    }
}

/// Immutable, and shared between threads. A clip is a function of (seed, split, index) alone.
pub struct World {
    config: WorldConfig,
    concepts: Vec<String>,
    drawings: Drawings,
    cast: Cast,
}

impl World {
    pub fn new(config: WorldConfig) -> Result<Self, WorldError> {
        config.check()?;
        let files = config.icons.iter().map(|path| IconFile::read(path)).collect::<Result<Vec<_>, _>>()?;
        let concepts = if config.concepts.is_empty() { shared(&files) } else { config.concepts.clone() };
        let mut seen = BTreeSet::new();
        for concept in &concepts {
            if !files.iter().any(|file| file.has(concept)) {
                let (concept, paths) = (concept.clone(), config.icons.clone());
                return Err(WorldError::UnknownConcept { concept, paths });
            }
            if !seen.insert(concept) {
                return Err(WorldError::ConceptTwice { concept: concept.clone() });
            }
        }
        if concepts.len() < FEWEST_CONCEPTS {
            return Err(WorldError::TooFewConcepts { needed: FEWEST_CONCEPTS, found: concepts.len() });
        }
        let drawings = files.iter().map(|file| file.drawings(&concepts)).collect::<Result<Drawings, _>>()?;
        let cast = Cast::new(&concepts, &drawings, config.seed);
        Ok(Self { config, concepts, drawings, cast })
    }

    /// Icon names in the order of the configuration, or sorted.
    pub fn concepts(&self) -> &[String] {
        &self.concepts
    }

    pub fn cast(&self) -> &Cast {
        &self.cast
    }

    /// By style and concept.
    pub fn drawings(&self) -> &Drawings {
        &self.drawings
    }

    /// The clip of this index.
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
        let scene = self.maker(rng, split).scene(rng, family);
        self.tell(rng, scene)
    }

    /// One frame with one to three concepts.
    pub fn image_clip(&self, split: Split, index: u64) -> Clip<'_> {
        let rng = &mut stream(self.config.seed, split, Purpose::Image, index);
        let mut maker = self.maker(rng, split);
        maker.stage.seconds = 1;
        let scene = maker.together(rng);
        self.tell(rng, scene)
    }

    /// Two invented words for two concepts, `shots` clips of each, and a question. Without shots it is a guess.
    pub fn naming_episode(&self, split: Split, index: u64, shots: usize) -> Episode<'_> {
        let rng = &mut stream(self.config.seed, split, Purpose::Episode, index);
        // The clip that is asked about comes first: it is the one that a split is about.
        let query = self.single(rng, split, None);
        let asked = query.scene().fact.concepts()[0];
        let other = self.cast.other_than(rng, &[asked]);
        let swapped = rng.random_bool(0.5);
        let meanings = if swapped { [other, asked] } else { [asked, other] };
        let words = two_words(rng);
        let mut order: Vec<usize> = (0..2 * shots).map(|i| i % 2).collect();
        shuffle(rng, &mut order);
        let support = order.into_iter().map(|word| {
            let clip = self.single(rng, split, Some(meanings[word]));
            (clip, naming(words[word]))
        });
        let support = support.collect();
        let mut choices = words.map(String::from);
        shuffle(rng, &mut choices);
        let answer = words[usize::from(swapped)].to_string();
        Episode { words, meanings, support, query, question: NAME_IT, answer, choices }
    }

    fn single(&self, rng: &mut Stream, split: Split, concept: Option<usize>) -> Clip<'_> {
        let scene = self.maker(rng, split).single(rng, concept);
        self.tell(rng, scene)
    }

    fn maker(&self, rng: &mut Stream, split: Split) -> Maker<'_> {
        let seconds = rng.random_range(self.config.frames.0..=self.config.frames.1);
        let stage = Stage::new(rng, self.config.long_side, seconds);
        let style = rng.random_bool(0.5).then(|| rng.random_range(0..self.drawings.len()));
        Maker { cast: &self.cast, drawings: &self.drawings, split, stage, style }
    }

    fn tell(&self, rng: &mut Stream, scene: Scene) -> Clip<'_> {
        let Self { concepts, drawings, cast, .. } = self;
        Clip { concepts, drawings, cast, scene, words_seed: rng.random() }
    }
}

/// The icon names that every file has, sorted.
fn shared(files: &[IconFile]) -> Vec<String> {
    let [first, rest @ ..] = files else { return Vec::new() };
    first.names().filter(|name| rest.iter().all(|file| file.has(name))).map(str::to_string).collect()
}

fn two_words(rng: &mut Stream) -> [&'static str; 2] {
    let first = rng.random_range(0..INVENTED.len());
    let step = rng.random_range(1..INVENTED.len());
    [INVENTED[first], INVENTED[(first + step) % INVENTED.len()]]
}

fn shuffle<T>(rng: &mut Stream, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}
