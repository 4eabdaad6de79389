//! `flamingo model check`: tests that a loaded model computes what its parts promise, without reference values.

use std::sync::Arc;

use candle_core::{DType, Tensor};
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
use self_test::{CheckedModel, NEW_TOKENS, SelfTest};

mod self_test;

/// Side of the test pictures in pixels.
const SIDE: u32 = 96;

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
        let model = LoadedModel::new(&pipeline)?;
        let mut all_well = true;
        for (name, result) in (SelfTest { model: &model }).run() {
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

/// A pipeline with two encoded pictures and prompts about them.
struct LoadedModel<'p> {
    pipeline: &'p Pipeline,
    pictures: [Picture; 2],
    /// Ids of two prompts of different lengths.
    prompts: [Vec<u32>; 2],
}

struct Picture {
    visual_tokens: Tensor,
    kv: Arc<MediaKv>,
}

impl<'p> LoadedModel<'p> {
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
        Ok(Self {
            pipeline,
            pictures: [picture(stripes())?, picture(disc())?],
            prompts: [prompt(&Task::Caption {})?, prompt(&question)?],
        })
    }
}

impl CheckedModel for LoadedModel<'_> {
    fn gates_open(&self) -> bool {
        self.pipeline.loaded().info.gates_open
    }

    fn cross_attention_layers(&self) -> Vec<usize> {
        self.pipeline.loaded().model.cross_attention_layers()
    }

    fn is_f32(&self) -> bool {
        self.pipeline.options().dtype == DType::F32
    }

    fn visual_tokens(&self, picture: usize) -> &Tensor {
        &self.pictures[picture].visual_tokens
    }

    fn prompt(&self, prompt: usize) -> &[u32] {
        &self.prompts[prompt]
    }

    fn logits(&self, ids: &[u32], picture: usize) -> anyhow::Result<Tensor> {
        let model = &self.pipeline.loaded().model;
        let mut row = model.uncached_row(vec![self.pictures[picture].kv.clone()]);
        let hidden = model.forward(&mut [RowInput { ids, state: &mut row }], None, None)?;
        Ok(model.logits(&hidden)?)
    }

    fn generate(&self, requests: &[(usize, usize)]) -> anyhow::Result<Vec<Completion>> {
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: NEW_TOKENS };
        let request = |&(prompt, picture): &(usize, usize)| -> SequenceRequest {
            SequencePlan::generate(&self.prompts[prompt], &generation, &StopCriteria::default())
                .over(vec![self.pictures[picture].kv.clone()])
        };
        let requests: Vec<SequenceRequest> = requests.iter().map(request).collect();
        let outputs = run(&self.pipeline.loaded().model, &requests);
        outputs.into_iter().map(|output| Ok(output?.into_completion()?)).collect()
    }
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
