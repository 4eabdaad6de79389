//! What a model knows of SpriteWorld: questions with known answers, by kind, with intervals; and the controls that show
//! where the knowledge comes from.

use std::collections::BTreeMap;

use image::{Rgb, RgbImage};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::contrastive::rng_of;
use super::spriteworld::{Clip, Episode, Split, World};
use crate::error::Result;
use crate::generate::{Generation, Strategy};
use crate::pipeline::{Medium, Pipeline};
use crate::prompt::Prompt;
use crate::task::Task;
use crate::video::Frame;

/// What is shown to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// One frame per second.
    AsIs,
    /// The same frames in another order: what is still known was not read from time.
    Shuffled,
    /// Grey frames: what is still known is the language model's guess.
    Blank,
    /// 16 frames of the same clip, more than were ever trained on: their temporal embeddings are interpolated.
    Sixteen,
}

/// One question and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The clip's index in its split.
    pub clip: u64,
    pub kind: String,
    pub question: String,
    /// The answer, or every caption that is true.
    pub expected: Vec<String>,
    pub written: String,
    pub right: bool,
}

/// Right answers of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Score {
    pub right: usize,
    pub asked: usize,
}

impl Score {
    pub fn share(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }

    /// Wilson's interval, which holds the true share 95 times of 100 as far as answers do not depend on each other; two
    /// questions about one clip do, a little.
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_964;
        let (n, p) = (self.asked.max(1) as f64, self.share());
        let centre = p + Z * Z / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 / (1.0 + Z * Z / n);
        (((centre - spread) * scale).max(0.0), ((centre + spread) * scale).min(1.0))
    }
}

/// The scores of everything that was asked, by kind.
pub fn scores(asked: &[Asked]) -> BTreeMap<String, Score> {
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    for one in asked {
        let score = scores.entry(one.kind.clone()).or_default();
        score.asked += 1;
        score.right += usize::from(one.right);
    }
    scores
}

/// The kind of a caption, among those of questions.
const CAPTION: &str = "caption";
/// The kind of a clip that is to be named by an invented word.
const NEW_WORD: &str = "new word";

/// Asks for a caption and every question of `clips` clips of a split, several clips side by side.
///
/// # Errors
/// As [`Pipeline::look`] and [`Pipeline::ask`].
pub fn evaluate(
    pipeline: &Pipeline,
    world: &World,
    split: Split,
    condition: Condition,
    clips: u64,
    watch: &(dyn Fn() + Sync),
) -> Result<Vec<Asked>> {
    let of = |index: u64| {
        let clip = world.clip(split, index);
        let asked = ask_all(pipeline, &clip, index, condition);
        watch();
        asked
    };
    Ok((0..clips).into_par_iter().map(of).collect::<Result<Vec<_>>>()?.concat())
}

/// Episodes in which two invented words are shown by `shots` examples each, and a clip is to be named by one of them:
/// the likelier word is the answer.
///
/// # Errors
/// As [`Pipeline::look`] and [`Pipeline::score`].
pub fn evaluate_naming(
    pipeline: &Pipeline,
    world: &World,
    split: Split,
    shots: usize,
    episodes: u64,
    watch: &(dyn Fn() + Sync),
) -> Result<Vec<Asked>> {
    let of = |index: u64| {
        let asked = name_it(pipeline, &world.naming_episode(split, index, shots), index);
        watch();
        asked
    };
    (0..episodes).into_par_iter().map(of).collect()
}

fn name_it(pipeline: &Pipeline, episode: &Episode, index: u64) -> Result<Asked> {
    let format = &pipeline.loaded().format;
    let look = |clip: &Clip| pipeline.encode(&prepared(pipeline, clip, index, Condition::AsIs));
    let mut media = Vec::new();
    let mut prompt = Prompt::default();
    for (clip, caption) in &episode.support {
        media.push(look(clip)?);
        prompt = prompt.then(format.example(format.ask_caption(), caption));
    }
    media.push(look(&episode.query)?);
    let prompt = prompt.then(format.ask_question(episode.question));
    let media: Vec<&Medium> = media.iter().collect();
    let likelihoods = pipeline.score(&prompt, &media, &episode.choices)?;
    let written = &episode.choices[usize::from(likelihoods[1] > likelihoods[0])];
    Ok(Asked {
        clip: index,
        kind: NEW_WORD.into(),
        question: episode.question.into(),
        expected: vec![episode.answer.clone()],
        right: *written == episode.answer,
        written: written.clone(),
    })
}

fn ask_all(pipeline: &Pipeline, clip: &Clip, index: u64, condition: Condition) -> Result<Vec<Asked>> {
    let medium = pipeline.encode(&prepared(pipeline, clip, index, condition))?;
    let write = |task: &Task| answer(pipeline, task, &[&medium]);
    let captions = clip.captions();
    let written = write(&Task::Caption {})?;
    let right = captions.contains(&written);
    let mut all = vec![Asked {
        clip: index,
        kind: CAPTION.into(),
        question: String::new(),
        expected: captions,
        written,
        right,
    }];
    for question in clip.questions() {
        let written = write(&Task::Question { question: question.question.clone() })?;
        all.push(Asked {
            clip: index,
            kind: question.kind.name().into(),
            right: written == question.answer,
            question: question.question,
            expected: vec![question.answer],
            written,
        });
    }
    Ok(all)
}

fn answer(pipeline: &Pipeline, task: &Task, media: &[&Medium]) -> Result<String> {
    let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 24 };
    Ok(pipeline.ask(task, media, &generation)?.text)
}

/// The frames of a clip as a condition shows them.
pub fn shown(clip: &Clip, index: u64, condition: Condition) -> Vec<RgbImage> {
    let mut frames = match condition {
        Condition::Sixteen => {
            let last = (clip.scene().seconds - 1) as f64;
            clip.frames_at((0..16).map(|i| last * f64::from(i) / 15.0))
        }
        _ => clip.frames(),
    };
    match condition {
        Condition::Shuffled => frames.shuffle(&mut rng_of(0, "shuffled", index)),
        Condition::Blank => {
            frames.iter_mut().for_each(|f| f.pixels_mut().for_each(|p| *p = Rgb([124, 116, 104])))
        }
        Condition::AsIs | Condition::Sixteen => {}
    }
    frames
}

fn prepared(pipeline: &Pipeline, clip: &Clip, index: u64, condition: Condition) -> Vec<Frame> {
    let frame = |(i, image)| pipeline.prepare(&Frame { pts: i as f64, image });
    shown(clip, index, condition).into_iter().enumerate().map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newcombe 1998, table I: 81 of 263 -> 0.2553 to 0.3662; 0 of 20 -> 0 to 0.1611.
    #[test]
    fn intervals_are_wilsons() {
        for (right, asked, low, high) in
            [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)]
        {
            let (l, h) = Score { right, asked }.interval();
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{right} of {asked}: {l} to {h}");
        }
    }
}
