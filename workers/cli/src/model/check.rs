//! `flamingo model check`: tests that a loaded model computes what its parts promise, without reference values.

use std::sync::Arc;

use anyhow::{Context, ensure};
use candle_core::{D, DType, Tensor};
use clap::Args;
use flamingo::generate::{
    Completion, Generation, SequencePlan, SequenceRequest, StopCriteria, Strategy, run,
};
use flamingo::model::{MediaKv, RowInput};
use flamingo::video::Frame;
use flamingo::{Pipeline, Task};
use image::{Rgb, RgbImage};
use serde_json::json;

use crate::args::ModelArgs;

/// Generated tokens per answer.
const NEW_TOKENS: usize = 8;
/// Side of the test pictures in pixels.
const SIDE: u32 = 96;
/// Least change of the logits by another picture, relative to their size. Closed gates give exactly 0.
const LEAST_CHANGE: f64 = 1e-4;

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object per test instead of text.
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl Check {
    pub fn run(self) -> anyhow::Result<bool> {
        let pipeline = self.model.load()?;
        let tests = SelfTest::new(&pipeline)?;
        let mut all_well = true;
        for (name, result) in [
            ("gates are open", tests.gates()),
            ("all values are finite", tests.finite()),
            ("another picture changes the answer", tests.picture_matters()),
            ("cached equals uncached", tests.cached_equals_uncached()),
            ("batch equals single", tests.batch_equals_single()),
        ] {
            all_well &= result.is_ok();
            let (passed, detail) = match &result {
                Ok(detail) => (true, detail.clone()),
                Err(error) => (false, format!("{error:#}")),
            };
            if self.json {
                println!("{}", json!({"test": name, "passed": passed, "detail": detail}));
            } else {
                println!("{:<7} {name}: {detail}", if passed { "ok" } else { "FAILED" });
            }
        }
        Ok(all_well)
    }
}

/// A model with two encoded pictures and prompts about them.
struct SelfTest<'p> {
    pipeline: &'p Pipeline,
    pictures: [Picture; 2],
    /// Ids of two prompts of different lengths.
    prompts: [Vec<u32>; 2],
    /// Largest difference of log-likelihoods, relative to their size.
    tolerance: f64,
}

struct Picture {
    visual_tokens: Tensor,
    kv: Arc<MediaKv>,
}

impl<'p> SelfTest<'p> {
    fn new(pipeline: &'p Pipeline) -> anyhow::Result<Self> {
        let picture = |image: RgbImage| -> anyhow::Result<Picture> {
            let prepared = pipeline.prepare(&Frame::at(0.0, image));
            let medium = pipeline.encode(&[prepared])?;
            Ok(Picture { kv: pipeline.media_kv(&medium)?, visual_tokens: medium.visual_tokens })
        };
        let question = Task::Question { question: "What colour is the largest thing in the picture?".into() };
        let prompt = |task: &Task| -> anyhow::Result<Vec<u32>> {
            Ok(pipeline.plan(task, &[], &[&[0.0]], &Generation::default())?.prompt)
        };
        let tolerance = if pipeline.options().dtype == DType::F32 { 1e-3 } else { 5e-2 };
        Ok(Self {
            pipeline,
            pictures: [picture(stripes())?, picture(disc())?],
            prompts: [prompt(&Task::Caption {})?, prompt(&question)?],
            tolerance,
        })
    }

    fn gates(&self) -> anyhow::Result<String> {
        ensure!(
            self.pipeline.loaded().info.gates_open,
            "every gate is closed: the model is untrained and cannot see"
        );
        let layers = self.pipeline.loaded().model.cross_attention_layers();
        Ok(format!("cross-attention before layers {layers:?}"))
    }

    fn finite(&self) -> anyhow::Result<String> {
        for (n, picture) in self.pictures.iter().enumerate() {
            check_finite(&format!("visual tokens of picture {}", n + 1), &picture.visual_tokens)?;
            check_finite(
                &format!("logits of picture {}", n + 1),
                &self.logits(&self.prompts[0], &picture.kv)?,
            )?;
        }
        Ok("visual tokens and logits of two pictures".into())
    }

    fn picture_matters(&self) -> anyhow::Result<String> {
        let [a, b] = &self.pictures;
        let (a, b) =
            (last(&self.logits(&self.prompts[0], &a.kv)?)?, last(&self.logits(&self.prompts[0], &b.kv)?)?);
        let change = rms(&(&a - &b)?)? / rms(&a)?;
        // Not `change < LEAST_CHANGE`, which is false for NaN.
        ensure!(
            change >= LEAST_CHANGE,
            "the logits change by {change:.1e} of their size, at least {LEAST_CHANGE:.0e} are expected"
        );
        Ok(format!("the logits change by {change:.1e} of their size"))
    }

    fn cached_equals_uncached(&self) -> anyhow::Result<String> {
        let prompt = &self.prompts[0];
        let kv = &self.pictures[0].kv;
        let cached = self.generate(&[(prompt, kv)])?.remove(0);
        let ids: Vec<u32> = prompt.iter().chain(&cached.ids).copied().collect();
        let logits = self.logits(&ids, kv)?.to_dtype(DType::F32)?;
        let mut uncached = 0.0;
        for (n, &id) in cached.ids.iter().enumerate() {
            let row: Vec<f32> = logits.get(prompt.len() + n - 1)?.to_vec1()?;
            uncached += log_probability(&row, id as usize).context("an id beyond the vocabulary")?;
        }
        let difference = self.check_close("log-likelihood", cached.log_likelihood, uncached)?;
        Ok(format!("the log-likelihood of {NEW_TOKENS} tokens differs by {difference:.1e}"))
    }

    fn batch_equals_single(&self) -> anyhow::Result<String> {
        let mut requests = Vec::new();
        for prompt in &self.prompts {
            requests.extend(self.pictures.iter().map(|picture| (prompt, &picture.kv)));
        }
        let together = self.generate(&requests)?;
        let mut worst = 0f64;
        for (n, (request, batched)) in requests.iter().zip(&together).enumerate() {
            let alone = self.generate(std::slice::from_ref(request))?.remove(0);
            let name = format!("answer {} of {}", n + 1, requests.len());
            if self.pipeline.options().dtype == DType::F32 {
                ensure!(
                    alone.ids == batched.ids,
                    "{name}: the tokens are {:?} alone and {:?} in a batch",
                    alone.ids,
                    batched.ids
                );
            }
            worst = worst.max(self.check_close(&name, alone.log_likelihood, batched.log_likelihood)?);
        }
        Ok(format!("log-likelihoods of {} answers differ by {worst:.1e} at most", requests.len()))
    }

    /// Returns the difference of two log-likelihoods, relative to their size.
    fn check_close(&self, name: &str, a: f64, b: f64) -> anyhow::Result<f64> {
        let difference = (a - b).abs() / a.abs().max(1.0);
        ensure!(
            difference <= self.tolerance,
            "{name}: {a:.6} and {b:.6} differ by {difference:.1e}, at most {:.0e} are expected",
            self.tolerance
        );
        Ok(difference)
    }

    /// Greedy answers of a fixed length, in one batch.
    fn generate(&self, requests: &[(&Vec<u32>, &Arc<MediaKv>)]) -> anyhow::Result<Vec<Completion>> {
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: NEW_TOKENS };
        let request = |(prompt, kv): &(&Vec<u32>, &Arc<MediaKv>)| -> SequenceRequest {
            SequencePlan::generate(prompt, &generation, &StopCriteria::default()).over(vec![(*kv).clone()])
        };
        let requests: Vec<SequenceRequest> = requests.iter().map(request).collect();
        let outputs = run(&self.pipeline.loaded().model, &requests);
        outputs.into_iter().map(|output| Ok(output?.into_completion()?)).collect()
    }

    /// Logits (l, vocabulary) of a whole sequence, without a cache.
    fn logits(&self, ids: &[u32], kv: &Arc<MediaKv>) -> anyhow::Result<Tensor> {
        let model = &self.pipeline.loaded().model;
        let mut row = model.uncached_row(vec![kv.clone()]);
        let hidden = model.forward(&mut [RowInput { ids, state: &mut row }], None, None)?;
        Ok(model.logits(&hidden)?)
    }
}

fn check_finite(name: &str, tensor: &Tensor) -> anyhow::Result<()> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let wrong = values.iter().filter(|value| !value.is_finite()).count();
    ensure!(wrong == 0, "{name}: {wrong} of {} values are infinite or no numbers", values.len());
    Ok(())
}

/// Logits of the last position.
fn last(logits: &Tensor) -> anyhow::Result<Tensor> {
    Ok(logits.get(logits.dim(0)? - 1)?.to_dtype(DType::F32)?)
}

fn rms(tensor: &Tensor) -> anyhow::Result<f64> {
    Ok(f64::from(tensor.sqr()?.mean(D::Minus1)?.to_scalar::<f32>()?).sqrt())
}

/// Natural logarithm of the probability of a token.
fn log_probability(logits: &[f32], id: usize) -> Option<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Some(f64::from(*logits.get(id)?) - largest - sum.ln())
}

/// Red and white stripes that become darker to the right.
fn stripes() -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let light = (255 - 2 * x) as u8;
        if (y / 8) % 2 == 0 { Rgb([light, 0, 20]) } else { Rgb([light; 3]) }
    })
}

/// A blue disc on green ground.
fn disc() -> RgbImage {
    let middle = i64::from(SIDE / 2);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (dx, dy) = (i64::from(x) - middle, i64::from(y) - middle);
        if dx * dx + dy * dy < 900 { Rgb([20, 40, 230]) } else { Rgb([30, 200, 60 + (y as u8)]) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_normalised() {
        let logits = [1.0, -2.0, 0.5];
        let sum: f64 = (0..3).map(|id| log_probability(&logits, id).unwrap().exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(log_probability(&logits, 3), None);
    }

    #[test]
    fn values_that_are_no_numbers_are_counted() {
        let tensor = Tensor::new(&[1f32, f32::NAN, f32::INFINITY], &candle_core::Device::Cpu).unwrap();
        let error = check_finite("logits", &tensor).unwrap_err();
        assert_eq!(error.to_string(), "logits: 2 of 3 values are infinite or no numbers");
    }
}
