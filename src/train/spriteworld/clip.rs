//! A clip with its captions and questions.

use image::RgbImage;
use rand::SeedableRng;

use super::captions;
use super::cast::Cast;
use super::questions::{Question, questions};
use super::random::Stream;
use super::render::Renderer;
use super::scene::{Drawings, Scene};
use super::words::with_article;

/// A clip of a world. Its scene is fixed; its pixels are drawn on request.
pub struct Clip<'a> {
    pub(super) concepts: &'a [String],
    pub(super) drawings: &'a Drawings,
    pub(super) cast: &'a Cast,
    pub(super) scene: Scene,
    /// Seed of near misses and questions.
    pub(super) words_seed: u64,
}

impl Clip<'_> {
    /// The scene that the clip shows.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Draws one frame per second: frame i shows the moment of i seconds.
    pub fn frames(&self) -> Vec<RgbImage> {
        self.frames_at((0..self.scene.seconds).map(|second| second as f64))
    }

    /// Draws frames at any moments, in seconds; a video of the clip lasts `scene().seconds`.
    pub fn frames_at(&self, moments: impl IntoIterator<Item = f64>) -> Vec<RgbImage> {
        let renderer = Renderer::new(self.drawings, &self.scene);
        moments.into_iter().map(|moment| renderer.frame_at(moment)).collect()
    }

    /// Draws the frame of one moment, in seconds.
    pub fn frame_at(&self, seconds: f64) -> RgbImage {
        Renderer::new(self.drawings, &self.scene).frame_at(seconds)
    }

    /// True captions in several phrasings.
    pub fn captions(&self) -> Vec<String> {
        captions::captions(&self.scene.fact, self.concepts)
    }

    /// Captions in the same phrasings that are false in exactly one part: concept, motion, direction, count
    /// or moment.
    pub fn near_misses(&self) -> Vec<String> {
        let mut rng = Stream::seed_from_u64(self.words_seed);
        let misses = captions::near_misses(&self.scene.fact, self.cast, &mut rng);
        misses.iter().flat_map(|fact| captions::captions(fact, self.concepts)).collect()
    }

    /// All questions with a certain answer.
    pub fn questions(&self) -> Vec<Question> {
        let mut rng = Stream::seed_from_u64(!self.words_seed);
        questions(&self.scene.fact, self.concepts, self.cast, &mut rng)
    }
}

/// Caption that names a clip by an invented word.
pub fn naming_caption(word: &str) -> String {
    format!("This is {}.", with_article(word))
}

/// Question about the query clip of an episode.
pub const NAMING_QUESTION: &str = "What is this?";

/// Few-shot episode: two invented words with examples, and a query clip that one of them names.
pub struct Episode<'a> {
    /// The invented words.
    pub words: [&'static str; 2],
    /// Concepts that the words mean in this episode.
    pub meanings: [usize; 2],
    /// Example clips, each with the index of its word; the same number for each word, in random order.
    pub support: Vec<(Clip<'a>, usize)>,
    /// The clip that the question is about.
    pub query: Clip<'a>,
    /// Index of the right word.
    pub asked: usize,
}

impl Episode<'_> {
    /// The same clips with both words exchanged, so that the other word is right.
    pub fn exchanged(self) -> Self {
        let [first, second] = self.words;
        Self { words: [second, first], ..self }
    }
}
