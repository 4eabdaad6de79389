//! Linear probe of the visual tokens of a model on SpriteWorld: `probe_visual_tokens MODEL [CLIPS]`.
//!
//! Two linear classifiers (kernel ridge regression) read the visual tokens of training clips: which concepts are present,
//! and which of two comes first. Their accuracy on held-out clips is a lower bound of what the tokens hold, without a
//! language model. Run it in the root folder of the repository.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use flamingo::Pipeline;
use flamingo::train::spriteworld::family::Family;
use flamingo::train::spriteworld::{Fact, Split, World, WorldConfig};
use flamingo::video::Frame;
use rayon::prelude::*;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Ridge of the regression, relative to the mean of the diagonal.
const RIDGE: f64 = 1e-2;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: probe_visual_tokens MODEL [CLIPS]")?;
    let clips: u64 = arguments.next().map_or(Ok(1500), |n| n.parse())?;
    let pipeline = Pipeline::load(Path::new(&model), Device::Cpu)?;
    let world = |families: &[Family]| {
        let concepts = CONCEPTS.map(String::from).into();
        World::new(WorldConfig { concepts, families: families.into(), seed: 1, ..WorldConfig::default() })
    };
    let two = world(&[Family::Pair, Family::Order])?;
    let present = probe(&pipeline, &two, clips, |fact, scores| {
        let there = fact.concepts();
        let worst = there.iter().map(|&c| scores[c]).fold(f64::INFINITY, f64::min);
        let best = (0..scores.len()).filter(|c| !there.contains(c)).map(|c| scores[c]);
        worst > best.fold(f64::NEG_INFINITY, f64::max)
    })?;
    println!("both present things above all absent ones: {:.1} % of {} clips", 100.0 * present, clips / 3);
    let order = world(&[Family::Order])?;
    let first = probe(&pipeline, &order, clips, |fact, scores| match fact {
        Fact::Order { first, then } => scores[*first] > scores[*then],
        _ => false,
    })?;
    println!(
        "the first of two things above the last: {:.1} % of {} clips (chance 50 %)",
        100.0 * first,
        clips / 3
    );
    Ok(())
}

/// Concepts of `config/train/flamingo-mini.toml`.
const CONCEPTS: [&str; 20] = [
    "anchor",
    "automobile",
    "banana",
    "bicycle",
    "butterfly",
    "cactus",
    "crab",
    "flamingo",
    "frog",
    "guitar",
    "hammer",
    "honeybee",
    "key",
    "mushroom",
    "owl",
    "penguin",
    "robot",
    "rocket",
    "snail",
    "umbrella",
];

/// Trains on `clips` training clips and returns the share of `clips / 3` held-out clips whose scores are right.
fn probe(
    pipeline: &Pipeline,
    world: &World,
    clips: u64,
    right: impl Fn(&Fact, &[f64]) -> bool,
) -> Result<f64, Error> {
    let (x, facts) = tokens(pipeline, world, Split::Train, clips)?;
    let targets: Vec<Vec<f64>> = facts.iter().map(target).collect();
    let kernel = x.matmul(&x.t()?)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let weights = solve(kernel, targets); // (clips, concepts)
    let (queries, facts) = tokens(pipeline, world, Split::HeldOutSeeds, clips / 3)?;
    let weights = Tensor::new(weights, &Device::Cpu)?.to_dtype(DType::F32)?;
    let scores = queries.matmul(&x.t()?)?.matmul(&weights)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let hits = facts.iter().zip(&scores).filter(|(fact, scores)| right(fact, scores)).count();
    Ok(hits as f64 / facts.len() as f64)
}

/// Target of each concept: 1 if it is present, less if it is the last of two, 0 if it is absent.
fn target(fact: &Fact) -> Vec<f64> {
    let mut target = vec![0.0; CONCEPTS.len()];
    fact.concepts().iter().for_each(|&c| target[c] = 1.0);
    if let Fact::Order { then, .. } = fact {
        target[*then] = 0.5;
    }
    target
}

/// Visual tokens of clips, flattened and centred: (clips, q d).
fn tokens(
    pipeline: &Pipeline,
    world: &World,
    split: Split,
    clips: u64,
) -> Result<(Tensor, Vec<Fact>), Error> {
    let of = |index: u64| -> Result<_, Error> {
        let clip = world.clip(split, index);
        let frame = |(i, image)| pipeline.prepare(&Frame::at(i as f64, image));
        let frames: Vec<Frame> = clip.frames().into_iter().enumerate().map(frame).collect();
        let tokens = pipeline.encode(&frames)?.visual_tokens.flatten_all()?.to_dtype(DType::F32)?;
        Ok((tokens, clip.scene().fact.clone()))
    };
    let all = (0..clips).into_par_iter().map(of).collect::<Result<Vec<_>, Error>>()?;
    let (tokens, facts): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let x = Tensor::stack(&tokens, 0)?;
    Ok((x.broadcast_sub(&x.mean_keepdim(1)?)?, facts))
}

/// Solves (kernel + ridge) w = targets by a Cholesky decomposition.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    let ridge = RIDGE * (0..n).map(|i| a[i][i]).sum::<f64>() / n as f64;
    for j in 0..n {
        a[j][j] += ridge;
        let (above, below) = a.split_at_mut(j + 1);
        let row = &mut above[j];
        let pivot = (row[j] - row[..j].iter().map(|v| v * v).sum::<f64>()).sqrt();
        row[j] = pivot;
        below.par_iter_mut().for_each(|other| {
            let dot: f64 = other[..j].iter().zip(&row[..j]).map(|(x, y)| x * y).sum();
            other[j] = (other[j] - dot) / pivot;
        });
    }
    for k in 0..b[0].len() {
        for i in 0..n {
            let known: f64 = (0..i).map(|j| a[i][j] * b[j][k]).sum();
            b[i][k] = (b[i][k] - known) / a[i][i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|j| a[j][i] * b[j][k]).sum();
            b[i][k] = (b[i][k] - known) / a[i][i];
        }
    }
    b
}
