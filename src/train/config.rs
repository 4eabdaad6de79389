//! What a training is told: one TOML file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::spriteworld::WorldConfig;
use crate::error::{Error, Result};
use crate::family::native::{NativeConfig, relative};
use crate::model::{FlamingoConfig, JointSpaceConfig};
use crate::vision::VisionConfig;

/// Everything that makes a model what it is. Paths are as seen from the working directory.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model's name.
    pub name: String,
    pub seed: u64,
    /// Parts of a batch that go through the network side by side. Sums depend on it, so it is no matter of the machine.
    #[serde(default = "two")]
    pub shards: usize,
    /// The frozen language model.
    pub language: PathBuf,
    /// The frozen text tower of the contrastive stages.
    pub text_tower: PathBuf,
    /// Another shape than `flamingo-mini`'s.
    #[serde(default)]
    pub vision: Option<VisionConfig>,
    #[serde(default)]
    pub model: Option<FlamingoConfig>,
    /// Width of the joint space.
    #[serde(default = "joint_width")]
    pub joint_width: usize,
    pub world: WorldConfig,
    /// Stage 1: the vision encoder.
    pub contrastive: ContrastiveConfig,
    /// Clips whose features are cached for the stages that follow.
    pub clips: usize,
    /// Stage 1b: the resampler, before any language model. Left out, stage 2 begins with a random one.
    #[serde(default)]
    pub warm_up: Option<ContrastiveConfig>,
    /// Stage 2: resampler and cross-attention.
    pub answers: AnswersConfig,
    /// At the end: the videos' joint space, once more, on the resampler as it is now.
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
    /// What contradicts itself, in words.
    ///
    /// # Errors
    /// A number that is zero, or an optimiser's setting outside its range.
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
            return Err(wrong(format!("{name}: 0 of them train nothing")));
        }
        if self.contrastive.near_misses > 0 {
            return Err(wrong("contrastive: near_misses are of videos, and belong to warm_up".into()));
        }
        let smoothing = |s: &ContrastiveConfig| !(0.0..1.0).contains(&s.label_smoothing);
        if smoothing(&self.contrastive) || self.warm_up.as_ref().is_some_and(smoothing) {
            return Err(wrong("label_smoothing is a share: from 0 to below 1".into()));
        }
        let DatasetWeights { captions, questions, episodes } = self.answers.weights;
        if ![captions, questions, episodes].iter().all(|w| w.is_finite() && *w >= 0.0) {
            return Err(wrong("answers.weights: each is 0 or more".into()));
        }
        for (name, schedule) in schedules {
            if schedule.steps == 0 {
                return Err(wrong(format!("{name}: 0 steps train nothing")));
            }
            schedule.optimiser.check().map_err(|reason| wrong(format!("{name}: {reason}")))?;
        }
        Ok(())
    }

    /// The model's description, as seen from its directory.
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

    /// What the stages up to one depend on, as a hash: a checkpoint of another configuration is not resumed.
    pub(super) fn fingerprint(&self, stages: &[&str]) -> String {
        let mut config = serde_json::to_value(self).expect("a configuration is JSON");
        let all = ["contrastive", "clips", "warm_up", "answers", "alignment"];
        let object = config.as_object_mut().expect("a configuration is an object");
        object.retain(|key, _| {
            key != "name" && (!all.contains(&key.as_str()) || stages.contains(&key.as_str()))
        });
        Sha256::digest(config.to_string()).iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn wrong(reason: String) -> Error {
    Error::Training(reason)
}

/// How a contrastive stage trains.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastiveConfig {
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Pairs per update.
    pub batch: usize,
    /// Captions per clip that are false in one fact, as further negatives (videos only).
    #[serde(default)]
    pub near_misses: usize,
    /// Share of the target that is spread over the batch.
    #[serde(default)]
    pub label_smoothing: f64,
}

/// How the last stage trains.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AnswersConfig {
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Clips per update, each with one caption.
    pub clips: usize,
    /// Questions per clip.
    pub questions: usize,
    /// A kind of question comes as often as it has answers; one with fewer than these comes as if it had so many.
    #[serde(default = "one")]
    pub least_answers: usize,
    /// Few-shot episodes per update: two invented words, each bound to a thing by examples, and a clip to name.
    #[serde(default)]
    pub episodes: usize,
    /// Most examples of each word in an episode; every number from 1 on is as likely.
    #[serde(default = "two")]
    pub shots: usize,
    #[serde(default)]
    pub weights: DatasetWeights,
}

/// What the mean loss of each dataset counts for; the gradients of all add up in every update.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetWeights {
    pub captions: f64,
    pub questions: f64,
    pub episodes: f64,
}

impl Default for DatasetWeights {
    fn default() -> Self {
        Self { captions: 0.5, questions: 1.0, episodes: 0.5 }
    }
}

/// How long a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    pub steps: u64,
    #[serde(default = "every_hundred")]
    pub checkpoint_every: u64,
    #[serde(default)]
    pub optimiser: OptimiserConfig,
}

fn one() -> usize {
    1
}

fn every_hundred() -> u64 {
    100
}

/// How a stage is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// The highest learning rate.
    pub rate: f64,
    /// Updates over which the rate rises from 0.
    pub warm_up: u64,
    pub decay: Decay,
    /// AdamW's, of matrices only, and none of the resampler's (Flamingo, appendix B.1.2 of its first version).
    pub weight_decay: f64,
    pub betas: (f64, f64),
    /// The norm of all gradients together is scaled down to this.
    pub clip_norm: Option<f64>,
    /// Adaptive gradient clipping (arXiv 2102.06171, section 4): the largest norm of a unit's gradient relative to that
    /// of its weights.
    pub adaptive_clip: Option<f64>,
    /// tanh gates are single numbers that start at 0 and on which everything behind them waits: their rate is this
    /// many times the others'.
    pub gate_rate: f64,
    /// The same of the resampler: one that has learnt before should not forget while others begin.
    pub resampler_rate: f64,
}

/// What the rate does after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    Constant,
    /// Down towards 0, which the update after the last would have.
    Linear,
    /// Half a period of a cosine, down towards 0.
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
    /// The learning rate of update `step` (from 0) of `steps`.
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

    /// What contradicts itself, in words.
    ///
    /// # Errors
    /// A number outside its range.
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
