//! Configuration of a training run: one TOML file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spriteworld::WorldConfig;
use crate::digest::{sha256, sha256_of_file};
use crate::error::{Error, Result};
use crate::family::native::{NativeConfig, relative};
use crate::model::{FlamingoConfig, JointSpaceConfig};
use crate::vision::VisionConfig;

/// Configuration of a training run: everything that determines the model. Paths are relative to the working
/// directory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Name of the model.
    pub name: String,
    /// Seed of the initial weights and of all random choices.
    pub seed: u64,
    /// Parts of a batch that are computed in parallel. Sums depend on it, so it does not follow the machine.
    #[serde(default = "two")]
    pub shards: usize,
    /// File or directory of the frozen language model.
    pub language: PathBuf,
    /// Directory of the frozen text tower of the contrastive stages.
    pub text_tower: PathBuf,
    /// Vision encoder, if it differs from that of `flamingo-mini`.
    #[serde(default)]
    pub vision: Option<VisionConfig>,
    /// Resampler and cross-attention, if they differ from those of `flamingo-mini`.
    #[serde(default)]
    pub model: Option<FlamingoConfig>,
    /// Width of the joint space.
    #[serde(default = "joint_width")]
    pub joint_width: usize,
    /// The world that draws the clips.
    pub world: WorldConfig,
    /// World of every third picture of stage 1, if it differs from `world`. An encoder that has learnt more concepts recognises
    /// more drawings that were not in the training.
    #[serde(default)]
    pub pictures: Option<WorldConfig>,
    /// Stage 1 trains the vision encoder.
    pub contrastive: ContrastiveConfig,
    /// Number of clips with cached features, for the later stages.
    pub clips: usize,
    /// Stage 1b trains the resampler without a language model. Without this stage, stage 2 begins with a
    /// random resampler.
    #[serde(default)]
    pub warm_up: Option<ContrastiveConfig>,
    /// Stage 2 trains the resampler and the cross-attention.
    pub answers: AnswersConfig,
    /// The last stage trains the joint space of videos once more, for the resampler after stage 2.
    #[serde(default)]
    pub alignment: Option<ContrastiveConfig>,
}

fn two() -> usize {
    2
}

fn joint_width() -> usize {
    256
}

impl TrainConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// A number is zero, or a setting of an optimiser is outside its range.
    pub fn check(&self) -> Result<()> {
        let stages = [("contrastive", &self.contrastive)].into_iter();
        let stages = stages.chain(self.warm_up.as_ref().map(|w| ("warm_up", w)));
        let stages = stages.chain(self.alignment.as_ref().map(|a| ("alignment", a)));
        let mut schedules = vec![("answers", self.answers.schedule)];
        let mut numbers =
            vec![("shards", self.shards), ("clips", self.clips), ("answers.clips", self.answers.clips)];
        for (name, stage) in stages {
            schedules.push((name, stage.schedule));
            numbers.push((name, stage.batch));
        }
        numbers.push(("joint_width", self.joint_width));
        numbers.push(("answers.least_answers", self.answers.least_answers));
        if let Some((name, _)) = numbers.iter().find(|(_, n)| *n == 0) {
            return Err(invalid(format!("{name} is 0, at least 1 is needed")));
        }
        if self.contrastive.near_misses > 0 {
            return Err(invalid("contrastive: near_misses need videos and belong to warm_up".into()));
        }
        let smoothing = |s: &ContrastiveConfig| !(0.0..1.0).contains(&s.label_smoothing);
        if smoothing(&self.contrastive) || self.warm_up.as_ref().is_some_and(smoothing) {
            return Err(invalid("label_smoothing is not from 0 to below 1".into()));
        }
        let DatasetWeights { captions, questions, episodes } = self.answers.weights;
        if ![captions, questions, episodes].iter().all(|w| w.is_finite() && *w >= 0.0) {
            return Err(invalid("answers.weights: a weight is not 0 or more".into()));
        }
        if !(self.answers.absent.is_finite() && self.answers.absent > 0.0) {
            return Err(invalid(format!("answers.absent is {}, not above 0", self.answers.absent)));
        }
        for (name, schedule) in schedules {
            if schedule.steps == 0 {
                return Err(invalid(format!("{name}: steps is 0, at least 1 is needed")));
            }
            schedule.optimiser.check().map_err(|reason| invalid(format!("{name}: {reason}")))?;
        }
        Ok(())
    }

    /// Description of the model for `directory`, with paths relative to it.
    pub(super) fn native(&self, directory: &Path, text_width: usize) -> Result<NativeConfig> {
        let mut native = NativeConfig::mini(&self.name, relative(&self.language, directory)?);
        if let Some(vision) = &self.vision {
            native.vision = vision.clone();
        }
        if let Some(model) = &self.model {
            native.model = model.clone();
        }
        native.joint_space = Some(JointSpaceConfig { width: self.joint_width, text_width });
        Ok(native)
    }

    /// Hash of the settings of `stages` and of the contents of the files that they name. A checkpoint with another
    /// fingerprint is not resumed.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn fingerprint(&self, stages: &[&str]) -> Result<String> {
        let mut config = serde_json::to_value(self).expect("a configuration is JSON");
        let object = config.as_object_mut().expect("a configuration is an object");
        let stage_settings = ["contrastive", "clips", "warm_up", "answers", "alignment"];
        object.retain(|key, _| {
            key != "name" && (!stage_settings.contains(&key.as_str()) || stages.contains(&key.as_str()))
        });
        object["language"] = contents(&self.language)?.into();
        object["text_tower"] = contents(&self.text_tower)?.into();
        for (key, world) in [("world", Some(&self.world)), ("pictures", self.pictures.as_ref())] {
            if let Some(world) = world {
                let icons = world.icons.iter().map(|path| contents(path)).collect::<Result<Vec<_>>>()?;
                object[key]["icons"] = icons.into();
            }
        }
        Ok(sha256(config.to_string().as_bytes()))
    }
}

/// Hash of a file, or of all files directly in a directory.
fn contents(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| invalid(format!("{}: {e}", path.display()));
    if !path.is_dir() {
        return sha256_of_file(path).map_err(failed);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            files.push((entry.file_name(), sha256_of_file(&entry.path()).map_err(failed)?));
        }
    }
    files.sort();
    Ok(sha256(format!("{files:?}").as_bytes()))
}

fn invalid(reason: String) -> Error {
    Error::Training(reason)
}

/// Settings of a contrastive stage.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastiveConfig {
    /// Steps, checkpoints and optimiser.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Pairs per update.
    pub batch: usize,
    /// Captions per clip that are false in one fact, as additional negatives (videos only).
    #[serde(default)]
    pub near_misses: usize,
    /// Share of the target that is spread evenly over the batch, from 0 to below 1.
    #[serde(default)]
    pub label_smoothing: f64,
}

/// Settings of stage 2.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AnswersConfig {
    /// Steps, checkpoints and optimiser.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Clips per update, each with one caption.
    pub clips: usize,
    /// Questions per clip.
    pub questions: usize,
    /// Kinds of questions are drawn in proportion to their number of answers, and at least as if they had
    /// this many.
    #[serde(default = "one")]
    pub least_answers: usize,
    /// Factor of the share of questions about absent things. They fit every clip, so without a factor below 1 they are the most
    /// frequent kind, and the model says of present things that they are absent.
    #[serde(default = "all")]
    pub absent: f64,
    /// Few-shot episodes per update: two invented words, each defined by examples, and a query clip to name.
    #[serde(default)]
    pub episodes: usize,
    /// Largest number of examples per word in an episode; each number from 1 to this is equally likely.
    #[serde(default = "two")]
    pub shots: usize,
    /// Weights of the datasets in the loss.
    #[serde(default)]
    pub weights: DatasetWeights,
}

/// Weights of the mean losses of the datasets. The gradients of all datasets are added in every update.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetWeights {
    /// Weight of captions.
    pub captions: f64,
    /// Weight of questions.
    pub questions: f64,
    /// Weight of few-shot episodes.
    pub episodes: f64,
}

impl Default for DatasetWeights {
    fn default() -> Self {
        Self { captions: 0.5, questions: 1.0, episodes: 0.5 }
    }
}

/// Length of a stage, with its optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Number of updates.
    pub steps: u64,
    /// Updates between two checkpoints.
    #[serde(default = "every_hundred")]
    pub checkpoint_every: u64,
    /// Settings of the optimiser.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
}

fn one() -> usize {
    1
}

fn all() -> f64 {
    1.0
}

fn every_hundred() -> u64 {
    100
}

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// Highest learning rate.
    pub rate: f64,
    /// Number of updates in which the rate rises from 0.
    pub warm_up: u64,
    /// Decay of the rate after the warm-up.
    pub decay: Decay,
    /// Weight decay of matrices outside the resampler (Flamingo, appendix B.1.2 of its first version).
    pub weight_decay: f64,
    /// Decay rates of the first and second moments.
    pub betas: (f64, f64),
    /// Largest global norm of the gradients; larger ones are scaled down to it.
    pub clip_norm: Option<f64>,
    /// Adaptive gradient clipping (arXiv 2102.06171, section 4): the largest ratio of the norm of a unit's
    /// gradient to the norm of its weights.
    pub adaptive_clip: Option<f64>,
    /// Factor of the rate for tanh gates. A gate is a single number that starts at 0 and scales the gradients
    /// of everything behind it.
    pub gate_rate: f64,
    /// Factor of the rate for the resampler. A trained resampler should not forget while other layers begin
    /// to learn.
    pub resampler_rate: f64,
}

/// Decay of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// No decay.
    Constant,
    /// Linear decay to 0, reached at the update after the last.
    Linear,
    /// Half a period of a cosine, down to 0.
    Cosine,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self {
            rate: 1e-3,
            warm_up: 50,
            decay: Decay::Cosine,
            weight_decay: 0.1,
            betas: (0.9, 0.98),
            clip_norm: Some(1.0),
            adaptive_clip: None,
            gate_rate: 1.0,
            resampler_rate: 1.0,
        }
    }
}

impl OptimiserConfig {
    /// Learning rate of update `step` (from 0) of `steps`.
    pub fn rate_at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warm_up {
            return self.rate * (step + 1) as f64 / self.warm_up as f64;
        }
        let span = steps.saturating_sub(self.warm_up).max(1) as f64;
        let done = ((step - self.warm_up) as f64 / span).min(1.0);
        self.rate
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - done,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A value is outside its range; the text names it.
    pub fn check(&self) -> Result<(), String> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(format!("{name} is {value}, not above 0"))
            }
        };
        positive("rate", self.rate)?;
        positive("gate_rate", self.gate_rate)?;
        positive("resampler_rate", self.resampler_rate)?;
        self.clip_norm.map_or(Ok(()), |v| positive("clip_norm", v))?;
        self.adaptive_clip.map_or(Ok(()), |v| positive("adaptive_clip", v))?;
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(format!("weight_decay is {}, not 0 or more", self.weight_decay));
        }
        let (first, second) = self.betas;
        if !(0.0..1.0).contains(&first) || !(0.0..1.0).contains(&second) {
            return Err(format!("betas are {first} and {second}, not from 0 to below 1"));
        }
        Ok(())
    }
}
