//! Evaluation on SpriteWorld: questions with known answers, scored by kind with confidence intervals, and
//! control conditions that show the source of the knowledge.

use std::collections::BTreeMap;

use image::{Rgb, RgbImage};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::contrastive::step_rng;
use super::spriteworld::clip::{NAMING_QUESTION, naming_caption};
use super::spriteworld::{Clip, Episode, QuestionKind, Split, World};
use crate::error::{Error, Result};
use crate::generate::{Generation, Strategy};
use crate::metrics::roc_auc;
use crate::pipeline::{Medium, Pipeline};
use crate::prompt::Prompt;
use crate::statistics::{Accuracy, bootstrap};
use crate::task::{Task, caption, question};
use crate::video::Frame;

/// Frames that the model gets for a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// One frame per second.
    AsIs,
    /// The same frames in random order. Answers that stay right do not depend on time.
    Shuffled,
    /// Grey frames. Answers that stay right are guesses of the language model.
    Blank,
    /// 16 frames of the same clip, more than in training, so the temporal embeddings are interpolated.
    Sixteen,
}

/// Result of one question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuestionResult {
    /// Index of the clip in its split.
    pub clip: u64,
    /// Kind of the question.
    pub kind: String,
    /// The question; empty for a caption.
    pub question: String,
    /// The right answer, or every true caption.
    pub expected: Vec<String>,
    /// The generated answer.
    pub written: String,
    /// Whether the generated answer is right.
    pub right: bool,
    /// Scores of how far the answer can be trusted, if they were asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
}

/// Scores of how far an answer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trust {
    /// Natural log-likelihood of the answer.
    pub log_likelihood: f64,
    /// Grounding of the answer, as [`Pipeline::grounding`].
    pub grounding: f64,
}

/// Separation of right answers from wrong ones by a score: area under the ROC curve with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separation {
    /// Probability that a right answer has a higher score than a wrong one.
    pub auc: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Separation {
    /// Computes the separation by `score`, with a bootstrap interval over the answers. `None`: all answers are right, or all
    /// are wrong.
    pub fn of(answers: &[(bool, f64)]) -> Option<Self> {
        let auc = |answers: &[(bool, f64)]| {
            let (right, scores): (Vec<bool>, Vec<f64>) = answers.iter().copied().unzip();
            roc_auc(&scores, &right).ok()
        };
        let sampled = |sample: &[usize]| auc(&sample.iter().map(|&i| answers[i]).collect::<Vec<_>>());
        let (low, high) = bootstrap(answers.len(), sampled)?;
        Some(Self { auc: auc(answers)?, low, high })
    }
}

/// Counts the scores by kind.
pub fn scores(results: &[QuestionResult]) -> BTreeMap<String, Accuracy> {
    let mut scores: BTreeMap<String, Accuracy> = BTreeMap::new();
    for result in results {
        let score = scores.entry(result.kind.clone()).or_default();
        score.asked += 1;
        score.right += usize::from(result.right);
    }
    scores
}

/// Kinds with two opposite questions about one clip. A constant answer is right for one of them, so the pair is
/// scored too.
const PAIRED: [QuestionKind; 2] = [QuestionKind::IsThere, QuestionKind::FirstOf];

/// Kind of a caption among the kinds of questions.
const CAPTION: &str = "caption";
/// Kind of a query clip that an invented word names.
const NEW_WORD: &str = "new word";

/// Asks for a caption and every question of `clips` clips of a split, several clips in parallel. With `trust`, computes the
/// scores of how far each answer can be trusted. Calls `on_clip` after each clip.
///
/// # Errors
/// As [`Pipeline::encode`] and [`Pipeline::ask`].
pub fn evaluate(
    pipeline: &Pipeline,
    world: &World,
    split: Split,
    condition: Condition,
    trust: bool,
    clips: u64,
    on_clip: &(dyn Fn() + Sync),
) -> Result<Vec<QuestionResult>> {
    let of = |index: u64| {
        let clip = world.clip(split, index);
        let results = ask_all(pipeline, &clip, index, condition, trust);
        on_clip();
        results
    };
    Ok((0..clips).into_par_iter().map(of).collect::<Result<Vec<_>>>()?.concat())
}

/// Evaluates episodes in which two invented words have `shots` examples each and one of them names the query
/// clip. Each episode is asked twice, the second time with both words exchanged, so a model that does not use the examples
/// is right exactly once. The likelier word counts as the answer. Calls `on_episode` after each episode.
///
/// # Errors
/// As [`Pipeline::encode`] and [`Pipeline::score`].
pub fn evaluate_naming(
    pipeline: &Pipeline,
    world: &World,
    split: Split,
    shots: usize,
    episodes: u64,
    on_episode: &(dyn Fn() + Sync),
) -> Result<Vec<QuestionResult>> {
    let of = |index: u64| {
        let results = ask_episode(pipeline, world.naming_episode(split, index, shots), index);
        on_episode();
        results
    };
    Ok((0..episodes).into_par_iter().map(of).collect::<Result<Vec<_>>>()?.concat())
}

fn ask_episode(pipeline: &Pipeline, episode: Episode, index: u64) -> Result<Vec<QuestionResult>> {
    let encode = |clip: &Clip| pipeline.encode(&prepared(pipeline, clip, index, Condition::AsIs));
    let clips = episode.support.iter().map(|(clip, _)| clip).chain([&episode.query]);
    let media = clips.map(encode).collect::<Result<Vec<_>>>()?;
    let media: Vec<&Medium> = media.iter().collect();
    let first = ask_query(pipeline, &episode, &media, index)?;
    let second = ask_query(pipeline, &episode.exchanged(), &media, index)?;
    let both = both(NEW_WORD, &[&first, &second]);
    Ok(vec![first, second, both])
}

/// Asks for the word of the query clip of an episode. `media` are its example clips and its query clip.
fn ask_query(
    pipeline: &Pipeline,
    episode: &Episode,
    media: &[&Medium],
    index: u64,
) -> Result<QuestionResult> {
    let format = &pipeline.loaded().format;
    let example =
        |which: usize| format.example(caption::prompt(format), &naming_caption(episode.words[which]));
    let examples = episode.support.iter().map(|(_, which)| example(*which));
    let prompt = examples.fold(Prompt::default(), Prompt::then);
    let prompt = prompt.then(question::prompt(format, NAMING_QUESTION));
    let choices = episode.words.map(String::from);
    let likelihoods = pipeline.score(&prompt, media, &choices)?;
    let written = usize::from(likelihoods[1] > likelihoods[0]);
    Ok(QuestionResult {
        clip: index,
        kind: NEW_WORD.into(),
        question: NAMING_QUESTION.into(),
        expected: vec![choices[episode.asked].clone()],
        right: written == episode.asked,
        written: choices[written].clone(),
        trust: None,
    })
}

/// Joins results that count only if all of them are right.
fn both(kind: &str, results: &[&QuestionResult]) -> QuestionResult {
    let join =
        |of: &dyn Fn(&QuestionResult) -> &str| results.iter().map(|r| of(r)).collect::<Vec<_>>().join("; ");
    QuestionResult {
        clip: results[0].clip,
        kind: format!("{kind}, both"),
        question: join(&|r| &r.question),
        expected: vec![join(&|r| &r.expected[0])],
        written: join(&|r| &r.written),
        right: results.iter().all(|r| r.right),
        trust: None,
    }
}

fn ask_all(
    pipeline: &Pipeline,
    clip: &Clip,
    index: u64,
    condition: Condition,
    trust: bool,
) -> Result<Vec<QuestionResult>> {
    let medium = pipeline.encode(&prepared(pipeline, clip, index, condition))?;
    let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 24 };
    let write = |task: &Task| {
        let answer = pipeline.ask(task, &[&medium], &generation)?;
        let grounding = || pipeline.grounding(task, &[], &medium, &answer.text);
        let log_likelihood = answer.log_likelihood;
        let trust = trust.then(grounding).transpose()?.map(|grounding| Trust { log_likelihood, grounding });
        Ok::<_, Error>((answer.text, trust))
    };
    let captions = clip.captions();
    let (written, trust) = write(&Task::Caption {})?;
    let right = captions.contains(&written);
    let (kind, question) = (CAPTION.into(), String::new());
    let mut all =
        vec![QuestionResult { clip: index, kind, question, expected: captions, written, right, trust }];
    for question in clip.questions() {
        let (written, trust) = write(&Task::Question { question: question.question.clone() })?;
        all.push(QuestionResult {
            clip: index,
            kind: question.kind.name().into(),
            right: written == question.answer,
            question: question.question,
            expected: vec![question.answer],
            written,
            trust,
        });
    }
    for kind in PAIRED.map(QuestionKind::name) {
        let pair: Vec<&QuestionResult> = all.iter().filter(|result| result.kind == kind).collect();
        if pair.len() > 1 {
            let both = both(kind, &pair);
            all.push(both);
        }
    }
    Ok(all)
}

/// Returns the frames of a clip under a condition.
pub fn frames_under(clip: &Clip, index: u64, condition: Condition) -> Vec<RgbImage> {
    let mut frames = match condition {
        Condition::Sixteen => {
            let last = (clip.scene().seconds - 1) as f64;
            clip.frames_at((0..16).map(|i| last * f64::from(i) / 15.0))
        }
        _ => clip.frames(),
    };
    match condition {
        Condition::Shuffled => frames.shuffle(&mut step_rng(0, "shuffled", index)),
        Condition::Blank => {
            frames.iter_mut().for_each(|f| f.pixels_mut().for_each(|p| *p = Rgb([124, 116, 104])))
        }
        Condition::AsIs | Condition::Sixteen => {}
    }
    frames
}

fn prepared(pipeline: &Pipeline, clip: &Clip, index: u64, condition: Condition) -> Vec<Frame> {
    let frame = |(i, image)| pipeline.prepare(&Frame::at(i as f64, image));
    frames_under(clip, index, condition).into_iter().enumerate().map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separation_has_an_interval() {
        let answers: Vec<(bool, f64)> = (0..40).map(|i| (i % 4 != 0, f64::from(i % 4))).collect();
        let separation = Separation::of(&answers).unwrap();
        assert_eq!((separation.auc, separation.low, separation.high), (1.0, 1.0, 1.0));
        let mixed: Vec<(bool, f64)> = (0..40).map(|i| (i % 2 == 0, f64::from(i * 7 % 11))).collect();
        let Separation { auc, low, high } = Separation::of(&mixed).unwrap();
        assert!(low < auc && auc < high && high - low > 0.1, "{low} {auc} {high}");
        assert_eq!(Separation::of(&[(true, 1.0), (true, 2.0)]), None);
    }
}
