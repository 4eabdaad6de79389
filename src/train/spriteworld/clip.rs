//! A clip and what can be said about it.

use image::RgbImage;
use rand::SeedableRng;

use super::captions;
use super::cast::Cast;
use super::questions::{Question, questions};
use super::random::Stream;
use super::render::Renderer;
use super::scene::{Drawings, Scene};
use super::words::with_article;

/// One clip of a world: its scene is settled, its pixels are drawn when they are asked for.
pub struct Clip<'a> {
    pub(super) concepts: &'a [String],
    pub(super) drawings: &'a Drawings,
    pub(super) cast: &'a Cast,
    pub(super) scene: Scene,
    /// Of everything that is said about the clip.
    pub(super) words_seed: u64,
}

impl Clip<'_> {
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// One frame per second: frame i shows the moment of i seconds.
    pub fn frames(&self) -> Vec<RgbImage> {
        self.frames_at((0..self.scene.seconds).map(|second| second as f64))
    }

    /// Any moments, in seconds; a video of the clip lasts `scene().seconds`.
    pub fn frames_at(&self, moments: impl IntoIterator<Item = f64>) -> Vec<RgbImage> {
        let renderer = Renderer::new(self.drawings, &self.scene);
        moments.into_iter().map(|moment| renderer.frame_at(moment)).collect()
    }

    /// One moment, in seconds.
    pub fn frame_at(&self, seconds: f64) -> RgbImage {
        Renderer::new(self.drawings, &self.scene).frame_at(seconds)
    }

    /// What the clip tells, in several phrasings.
    pub fn captions(&self) -> Vec<String> {
        captions::captions(&self.scene.fact, self.concepts)
    }

    /// Captions in the same phrasings that are false in exactly one thing: who, what, which way, how many, when.
    pub fn near_misses(&self) -> Vec<String> {
        let mut rng = Stream::seed_from_u64(self.words_seed);
        let misses = captions::near_misses(&self.scene.fact, self.cast, &mut rng);
        misses.iter().flat_map(|fact| captions::captions(fact, self.concepts)).collect()
    }

    /// Everything that can be asked and is certain.
    pub fn questions(&self) -> Vec<Question> {
        let mut rng = Stream::seed_from_u64(!self.words_seed);
        questions(&self.scene.fact, self.concepts, self.cast, &mut rng)
    }
}

/// An example of an invented word.
pub fn naming(word: &str) -> String {
    format!("This is {}.", with_article(word))
}

/// What is asked after examples of invented words.
pub const NAME_IT: &str = "What is this?";

/// Two invented words are shown by examples; a last clip asks for one of them.
pub struct Episode<'a> {
    pub words: [&'static str; 2],
    /// The concepts that the words mean here.
    pub meanings: [usize; 2],
    /// As many clips of each word, in random order, with their captions.
    pub support: Vec<(Clip<'a>, String)>,
    pub query: Clip<'a>,
    pub question: &'static str,
    pub answer: String,
    /// Both words, in random order.
    pub choices: [String; 2],
}
