//! The recipe: training stages in order. Each stage freezes the parts of the previous one, and the last one
//! is followed by writing the model directory.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::Path;

use candle_core::{DType, Device, Var};

use super::answers::{AnswersObjective, by_concept};
use super::config::{ContrastiveConfig, TrainConfig};
use super::contrastive::{CachedTextTower, FramesAgainstCaptions, VideosAgainstCaptions};
use super::curves;
use super::features::FeatureCache;
use super::run::{Progress, check_checkpoint, failed, optimise};
use super::spriteworld::family::Family;
use super::spriteworld::{World, WorldConfig};
use super::text_states::TextStates;
use crate::error::Result;
use crate::family::native::{NativeConfig, assemble, write};
use crate::family::{LoadOptions, Loaded};
use crate::model::{JointSpaces, PerceiverResampler};
use crate::search::TextTower;
use crate::vision::{VisionConfig, VisionEncoder};
use crate::weights::{Quantization, Weights};

/// The stages in order. `STAGE.csv` is the record of a stage and `STAGE.safetensors` its checkpoint.
pub const STAGES: [&str; 4] = ["contrastive", "warm-up", "answers", "alignment"];

/// Configuration sections that each stage depends on.
const DEPENDENCIES: [(&str, &[&str]); 4] = [
    ("contrastive", &["contrastive"]),
    ("warm-up", &["contrastive", "clips", "warm_up"]),
    ("answers", &["contrastive", "clips", "warm_up", "answers"]),
    ("alignment", &["contrastive", "clips", "warm_up", "answers", "alignment"]),
];

/// Trains the model that `config` describes and writes it to `directory`. Checkpoints and records are in
/// `folder`: a killed run of the same configuration resumes from there.
///
/// # Errors
/// A file is missing, the configuration is invalid, or the loss is not finite.
pub fn train(
    config: &TrainConfig,
    folder: &Path,
    directory: &Path,
    device: &Device,
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<()> {
    config.check()?;
    for folder in [folder, directory] {
        fs::create_dir_all(folder).map_err(|e| failed(format!("{}: {e}", folder.display())))?;
    }
    let _lock = lock(folder)?;
    // Checks that would otherwise fail only after hours of training.
    for stage in STAGES {
        check_checkpoint(folder, stage, &config.stage_fingerprint(stage)?)?;
    }
    let world = open_world(&config.world)?;
    let tower = TextTower::open(&config.text_tower, device)?;
    let native = config.native(directory, tower.width())?;
    check_language_model(directory, &native, device)?;
    let trainee = Trainee::new(config, native, device)?;
    let texts = CachedTextTower::new(tower);
    trainee.contrastive(&world, &texts, folder, on_progress)?;
    curves::write(folder, &STAGES)?;
    let features = trainee.features(&world, folder, on_progress)?;
    trainee.match_scales(&features)?;
    trainee.warm_up(&world, &texts, &features, folder, on_progress)?;
    curves::write(folder, &STAGES)?;
    trainee.answers(&world, &features, folder, directory, on_progress)?;
    curves::write(folder, &STAGES)?;
    trainee.align(&world, &texts, &features, folder, on_progress)?;
    curves::write(folder, &STAGES)?;
    let tensors = trainee.weights.vars().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    write(directory, &trainee.native, &tensors.collect())
}

/// The model during training. The tensors of all layers are variables of one source.
struct Trainee<'a> {
    config: &'a TrainConfig,
    native: NativeConfig,
    device: &'a Device,
    weights: Weights,
    encoder: Box<dyn VisionEncoder>,
    resampler: PerceiverResampler,
    spaces: JointSpaces,
}

impl<'a> Trainee<'a> {
    fn new(config: &'a TrainConfig, native: NativeConfig, device: &'a Device) -> Result<Self> {
        native.model.check().map_err(failed)?;
        let weights = Weights::random(config.seed, device, DType::F32);
        let encoder = encoder(&native.vision, &weights)?;
        let Some(resampler) = native.model.connector.resampler() else {
            return Err(failed("a model without a resampler cannot be trained"));
        };
        let width = resampler.width;
        let resampler = PerceiverResampler::new(resampler, encoder.width(), weights.pp("resampler"))?;
        let joint = native.joint_space.as_ref().expect("a trainee has a joint space");
        let spaces = JointSpaces::new(joint, encoder.width(), width, &weights.pp("joint_space"))?;
        Ok(Self { config, native, device, weights, encoder, resampler, spaces })
    }

    /// Variables with a name that begins with any of `parts`.
    fn parameters(&self, parts: &[&str]) -> BTreeMap<String, Var> {
        let mut vars = self.weights.vars();
        vars.retain(|name, _| parts.iter().any(|part| name.starts_with(part)));
        vars
    }

    fn contrastive(
        &self,
        world: &World,
        texts: &CachedTextTower,
        folder: &Path,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<()> {
        let families = vec![Family::Pair, Family::Several];
        let arranged = open_world(&WorldConfig { families, ..self.config.world.clone() })?;
        let pictures = self.config.pictures.as_ref().map(open_world).transpose()?;
        let objective = FramesAgainstCaptions {
            world,
            arranged: &arranged,
            pictures: pictures.as_ref().unwrap_or(world),
            texts,
            config: &self.config.contrastive,
            preprocess: self.native.vision.preprocess(),
            encoder: &*self.encoder,
            space: &self.spaces.frames,
            parameters: self.parameters(&["vision.", "joint_space.frames."]),
            device: self.device,
            seed: self.config.seed,
            shards: self.config.shards,
        };
        let fingerprint = self.config.stage_fingerprint("contrastive")?;
        optimise(&objective, &self.config.contrastive.schedule, folder, &fingerprint, on_progress)
    }

    fn features(
        &self,
        world: &World,
        folder: &Path,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<FeatureCache> {
        let frozen = encoder(&self.native.vision, &self.weights)?.fold()?;
        let clips = self.config.clips;
        let start = std::time::Instant::now();
        FeatureCache::open(
            &folder.join("features"),
            &self.config.fingerprint(&["contrastive", "clips"])?,
            clips,
            world,
            (&*frozen, self.native.vision.preprocess(), self.device),
            &mut |done| {
                on_progress(&Progress {
                    stage: "features",
                    step: done as u64,
                    steps: clips as u64,
                    loss: f64::NAN,
                    figures: &[],
                    throughput: done as f64 / start.elapsed().as_secs_f64(),
                    time_left: start.elapsed().mul_f64((clips - done) as f64 / done as f64),
                });
            },
        )
    }

    /// Scales the projected features to the magnitude of the temporal embedding that is added to them. The
    /// normalisation that follows would suppress the smaller of the two.
    fn match_scales(&self, features: &FeatureCache) -> Result<()> {
        if let Some(projection) = self.weights.vars().get("resampler.projection.weight") {
            projection.set(&(projection.as_detached_tensor() / features.scale()?)?)?;
        }
        Ok(())
    }

    fn warm_up(
        &self,
        world: &World,
        texts: &CachedTextTower,
        features: &FeatureCache,
        folder: &Path,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<()> {
        let Some(config) = &self.config.warm_up else { return Ok(()) };
        let trained = ["resampler.", "joint_space.videos."];
        let objective = self.videos("warm-up", config, &trained, world, texts, features);
        let fingerprint = self.config.stage_fingerprint("warm-up")?;
        optimise(&objective, &config.schedule, folder, &fingerprint, on_progress)
    }

    fn align(
        &self,
        world: &World,
        texts: &CachedTextTower,
        features: &FeatureCache,
        folder: &Path,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<()> {
        let Some(config) = &self.config.alignment else { return Ok(()) };
        let objective = self.videos("alignment", config, &["joint_space.videos."], world, texts, features);
        let fingerprint = self.config.stage_fingerprint("alignment")?;
        optimise(&objective, &config.schedule, folder, &fingerprint, on_progress)
    }

    fn videos<'b>(
        &'b self,
        name: &'static str,
        config: &'b ContrastiveConfig,
        trained: &[&str],
        world: &'b World,
        texts: &'b CachedTextTower,
        features: &'b FeatureCache,
    ) -> VideosAgainstCaptions<'b> {
        VideosAgainstCaptions {
            name,
            world,
            texts,
            config,
            features,
            resampler: &self.resampler,
            space: &self.spaces.videos,
            parameters: self.parameters(trained),
            device: self.device,
            seed: self.config.seed,
            shards: self.config.shards,
        }
    }

    fn answers(
        &self,
        world: &World,
        features: &FeatureCache,
        folder: &Path,
        directory: &Path,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<()> {
        // candle's quantised products have no gradient and raise no error.
        let options = LoadOptions::new(self.device.clone(), DType::F32, Quantization::Dequantize);
        let Loaded { model, tokenizer, tokens, format, .. } =
            assemble(directory, &self.native, &options, &self.weights, Default::default())?.join()?;
        let objective = AnswersObjective {
            world,
            config: &self.config.answers,
            features,
            model: &model,
            text_states: TextStates::new(&model),
            tokenizer: &tokenizer,
            tokens: &tokens,
            format: &format,
            parameters: self.parameters(&["resampler.", "cross_attention."]),
            device: self.device,
            seed: self.config.seed,
            shards: self.config.shards,
            by_concept: by_concept(world, features.len()),
        };
        let fingerprint = self.config.stage_fingerprint("answers")?;
        optimise(&objective, &self.config.answers.schedule, folder, &fingerprint, on_progress)
    }
}

impl TrainConfig {
    /// Fingerprint of everything that a stage depends on.
    ///
    /// # Errors
    /// A file cannot be read.
    fn stage_fingerprint(&self, stage: &str) -> Result<String> {
        let found = DEPENDENCIES.iter().find(|(name, _)| *name == stage);
        self.fingerprint(found.map_or(&[][..], |(_, sections)| sections))
    }
}

/// Locks the folder, because two runs in one folder would overwrite each other's checkpoints. The lock ends
/// with the process.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(failed(format!("{}: another training run uses this folder", folder.display())))
        }
        // Without support for locks in the file system, the run continues unlocked.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

/// Checks that the model can be built with this language model.
fn check_language_model(directory: &Path, native: &NativeConfig, device: &Device) -> Result<()> {
    let quantization = Quantization::Keep;
    let options = LoadOptions::new(device.clone(), DType::F32, quantization);
    assemble(directory, native, &options, &Weights::random(0, device, DType::F32), Default::default())
        .map(drop)
}

fn open_world(config: &WorldConfig) -> Result<World> {
    World::new(config.clone()).map_err(|e| failed(e.to_string()))
}

/// Builds the trainable encoder on the variables of `weights`.
fn encoder(config: &VisionConfig, weights: &Weights) -> Result<Box<dyn VisionEncoder>> {
    config.encoder().build(&weights.pp("vision"))
}
