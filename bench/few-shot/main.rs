//! Measures the time of a query after few-shot examples, and writes a Markdown table to stdout: `bench-few-shot MODEL [ROUNDS]`.
//!
//! A query is one image, whose visual tokens are ready, with a one-token answer. It runs without examples; with examples whose
//! prefix is not cached (cold); with the same examples again (warm); and with other examples each time, whose visual tokens and
//! media K/V are ready (new order). Rounds of all of them take turns, so that other programs disturb all alike. A second table has
//! the first query of a new engine, with and without the examples on disk.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use flamingo::Task;
use flamingo::family::LoadOptions;
use flamingo::generate::{Generation, Strategy};
use flamingo::pipeline::{Medium, Pipeline, Shot};
use flamingo::task::ShotText;
use flamingo::video::Frame;
use flamingo::weights::Quantization;
use image::RgbImage;
use inference::context::RequestContext;
use inference::engine::{Engine, EngineLimits, PrefixFolder};
use inference::model::Model;

const SHOTS: [usize; 2] = [32, 128];
const BATCHES: [usize; 2] = [1, 8];
const OUTPUTS: [&str; 4] = ["frog", "owl", "red key", "crab"];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().context("usage: bench-few-shot MODEL [ROUNDS]")?;
    let rounds: usize = arguments.next().map_or(Ok(7), |n| n.parse())?;
    shared_examples(Path::new(&model), rounds)?;
    restarts(Path::new(&model), rounds)
}

/// Starts an engine, with examples on disk if `folder` is one.
fn start(model: &Path, folder: Option<&Path>) -> Result<Engine> {
    let mut options = LoadOptions::new(Device::Cpu, DType::F32, Quantization::Keep);
    options.hash_language = folder.is_some();
    let pipeline = Pipeline::load_with(model, options)?;
    let limits = EngineLimits { media_bytes: 2 << 30, ..EngineLimits::default() };
    let folder = folder.map(|path| PrefixFolder { path: path.into(), bytes: 8 << 30 });
    Ok(Engine::start_with_prefixes(pipeline, limits, folder)?)
}

/// Prints the first query after examples of a new engine, whose media are encoded: computed, and read from disk.
fn restarts(model: &Path, rounds: usize) -> Result<()> {
    println!("\n| examples | on disk | bytes on disk | first query |");
    println!("|---|---|---|---|");
    for examples in SHOTS {
        let folder = tempfile::tempdir()?;
        let mut ratios: [Vec<f64>; 2] = Default::default();
        // The first round writes the examples: a second query uses them.
        for round in 0..=rounds {
            for (ratios, on_disk) in ratios.iter_mut().zip([false, true]) {
                let engine = start(model, on_disk.then_some(folder.path()))?;
                let (shots, queries) = (shots(&engine)?, [medium(&engine, 1000)?]);
                let bench = Bench { engine: &engine, queries: &queries };
                bench.seconds(&[])?;
                let none = bench.seconds(&[])?.0;
                let first = bench.seconds(&shots[..examples])?.0;
                if round == 0 {
                    bench.seconds(&shots[..examples])?;
                } else {
                    ratios.push(first / none);
                }
            }
        }
        let sizes = std::fs::read_dir(folder.path())?.map(|file| Ok(file?.metadata()?.len()));
        let bytes: u64 = sizes.sum::<Result<u64>>()?;
        let [computed, read] = ratios.map(cell);
        println!("| {examples} | no | 0 | {computed} |");
        println!("| {examples} | yes | {bytes} | {read} |");
    }
    Ok(())
}

/// Prints queries after examples that are in memory or not.
fn shared_examples(model: &Path, rounds: usize) -> Result<()> {
    let engine = start(model, None)?;
    let shots = shots(&engine)?;
    let queries = (0..BATCHES[1]).map(|i| medium(&engine, 1000 + i)).collect::<Result<Vec<_>>>()?;
    println!("| examples | queries at once | prompt tokens | cold | warm | new order |");
    println!("|---|---|---|---|---|---|");
    for examples in SHOTS {
        for (column, batch) in BATCHES.into_iter().enumerate() {
            let (bench, mut tokens) = (Bench { engine: &engine, queries: &queries[..batch] }, 0);
            let mut ratios: [Vec<f64>; 3] = Default::default();
            for round in 0..=rounds {
                let rotated = |by: usize| [&shots[by..examples], &shots[..by]].concat();
                // No two rounds have the same order: its prefix would be cached.
                let place = 1 + (4 * round + 2 * column) % (examples - 2);
                let none = bench.seconds(&[])?.0;
                let (cold, n) = bench.seconds(&rotated(place))?;
                let (warm, _) = bench.seconds(&rotated(place))?;
                let (other, _) = bench.seconds(&rotated(place + 1))?;
                tokens = n;
                // The first round also projects the media.
                if round > 0 {
                    for (ratios, seconds) in ratios.iter_mut().zip([cold, warm, other]) {
                        ratios.push(seconds / none);
                    }
                }
            }
            let [cold, warm, other] = ratios.map(cell);
            println!("| {examples} | {batch} | {tokens} | {cold} | {warm} | {other} |");
        }
    }
    Ok(())
}

struct Bench<'a> {
    engine: &'a Engine,
    queries: &'a [Medium],
}

impl Bench<'_> {
    /// Returns the seconds of all queries at once, and the tokens of a prompt.
    fn seconds(&self, shots: &[Shot]) -> Result<(f64, usize)> {
        let task = Task::Question { question: "What is this?".into() };
        let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 1 };
        let context = RequestContext::default();
        let ask = |query: &Medium| {
            let tasks = std::slice::from_ref(&task);
            self.engine.ask(tasks, shots.into(), &[query], &generation, &context).remove(0)
        };
        let start = Instant::now();
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = self.queries.iter().map(|query| scope.spawn(|| ask(query))).collect();
            asked.into_iter().map(|thread| thread.join().expect("a query does not panic")).collect::<Vec<_>>()
        });
        let seconds = start.elapsed().as_secs_f64();
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(
            answers.iter().all(|a| a.shots == shots.len()),
            "the prompt has no room for all examples"
        );
        Ok((seconds, answers[0].prompt_tokens))
    }
}

fn shots(engine: &Engine) -> Result<Vec<Shot>> {
    let shot = |i: usize| {
        let text = ShotText { question: None, text: None, output: OUTPUTS[i % OUTPUTS.len()].into() };
        Ok(Shot { name: i.to_string(), medium: medium(engine, i)?, text })
    };
    (0..SHOTS[1]).map(shot).collect()
}

/// Encodes an image of its own.
fn medium(engine: &Engine, i: usize) -> Result<Medium> {
    let pixel = |x: u32, y: u32| image::Rgb([(x * 3 + i as u32) as u8, (y * 5) as u8, (i * 37) as u8]);
    let frame = engine.prepare(&Frame::at(0.0, RgbImage::from_fn(96, 96, pixel)));
    Ok(engine.encode(vec![frame], &RequestContext::default())?)
}

/// Median of ratios, with their range.
fn cell(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    format!("{:.2} ({least:.2}-{most:.2})", ratios[ratios.len() / 2])
}
