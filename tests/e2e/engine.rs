//! The engine: concurrent requests get the same answers as single ones, and no request starves, is lost or fails because of
//! another.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use flamingo::generate::{Generation, Strategy};
use flamingo::pipeline::{Answer, Medium, Pipeline, Shot, Shots};
use flamingo::prompt::Prompt;
use flamingo::task::ShotText;
use flamingo::video::Frame;
use flamingo::{Error, Task};
use image::RgbImage;
use inference::context::{Cancel, RequestContext};
use inference::engine::{Engine, EngineLimits, EngineSnapshot, PrefixCounts};
use inference::model::{Model, ModelError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::likelihood;

fn pipeline() -> Pipeline {
    let mini: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/flamingo-mini");
    Pipeline::load(&mini, Device::Cpu).unwrap()
}

const LIMITS: EngineLimits = EngineLimits { rows: 12, frames: 6, kv_bytes: 64 << 20, media_bytes: 1 << 20 };

/// Returns frames of a changing colour.
fn frames(seed: usize, n: usize) -> Vec<Frame> {
    let pixel =
        |t: usize, x: u32, y: u32| [(40 * seed + 9 * t) as u8, (x * 5) as u8, (y * 3 + seed as u32) as u8];
    (0..n)
        .map(|t| Frame::at(t as f64, RgbImage::from_fn(48, 36, |x, y| image::Rgb(pixel(t, x, y)))))
        .collect()
}

fn ask(
    model: &dyn Model,
    medium: &Medium,
    task: &Task,
    generation: &Generation,
    context: &RequestContext,
) -> Result<Answer, ModelError> {
    model.ask(std::slice::from_ref(task), Shots::default(), &[medium], generation, context).remove(0)
}

fn strategy(i: usize) -> Generation {
    let strategy = match i % 3 {
        0 => Strategy::Greedy {},
        1 => Strategy::Beam { beams: 2 + i % 2, length_penalty: 0.0 },
        _ => Strategy::Sample { temperature: 2.0, top_k: 20, top_p: 0.95, seed: i as u64 },
    };
    Generation { strategy, max_new_tokens: 8 + i }
}

/// Returns a task. Captions have about ten tokens, answers one or two.
fn task(i: usize) -> Task {
    match i % 4 {
        0 => Task::Question { question: format!("What is this{}?", " and what is that".repeat(i % 5)) },
        _ => Task::Caption {},
    }
}

/// 16 requests of different lengths, media and strategies, at random times.
#[test]
fn batched_answers_equal_single_answers() {
    let alone = pipeline();
    let context = RequestContext::default();
    let expected: Vec<(Answer, f64)> = (0..16)
        .map(|i| {
            let prepared = frames(i, 1 + i % 4).iter().map(|frame| alone.prepare(frame)).collect::<Vec<_>>();
            let medium = alone.encode(&prepared).unwrap();
            let answer = Pipeline::ask(&alone, &task(i), &[&medium], &strategy(i)).unwrap();
            let likelihood = answer.log_likelihood;
            (answer, likelihood)
        })
        .collect();
    let tokens = expected.iter().map(|(answer, _)| answer.completion_tokens).sum::<usize>();
    assert!(tokens > 80, "answers of {tokens} tokens hardly ever share a step");
    let engine = Engine::start(pipeline(), LIMITS).unwrap();
    let rng = &mut StdRng::seed_from_u64(3);
    std::thread::scope(|scope| {
        for (i, (expected, likelihood)) in expected.iter().enumerate() {
            let delay = Duration::from_millis(rng.random_range(0..400));
            let (engine, context) = (&engine, &context);
            scope.spawn(move || {
                std::thread::sleep(delay);
                let prepared = frames(i, 1 + i % 4).iter().map(|frame| engine.prepare(frame)).collect();
                let medium = engine.encode(prepared, context).unwrap();
                let answer = ask(engine, &medium, &task(i), &strategy(i), context).unwrap();
                assert_eq!((&answer.text, answer.finish), (&expected.text, expected.finish), "request {i}");
                assert_eq!(answer.completion_tokens, expected.completion_tokens, "request {i}");
                likelihood::assert_same(&format!("request {i}"), answer.log_likelihood, *likelihood);
            });
        }
    });
    let load = until(&engine, at_rest);
    assert!(load.generator.passes < tokens as u64, "{tokens} tokens took {} steps", load.generator.passes);
    assert!(
        load.encoder.passes > 0 && load.generator.busy > Duration::ZERO && load.media_bytes > 0,
        "{load:?}"
    );
}

/// Scores are sequences in the same batches as answers.
#[test]
fn engine_scores_what_pipeline_scores() {
    let (single, context) = (pipeline(), RequestContext::default());
    let prompt = Prompt::parse("<image>Question: What is this? Answer:");
    let answers = ["a red ball", "a dog", "nothing", "two", "three blue boxes", "a", "b", "c", "d", "e"];
    let answers = answers.map(String::from);
    let prepared: Vec<_> = frames(3, 2).iter().map(|frame| single.prepare(frame)).collect();
    let medium = single.encode(&prepared).unwrap();
    let together = Pipeline::score(&single, &prompt, &[&medium], &answers).unwrap();
    let one =
        |answer| Pipeline::score(&single, &prompt, &[&medium], std::slice::from_ref(answer)).unwrap()[0];
    let expected: Vec<f64> = answers.iter().map(one).collect();
    let check = |what: &str, scores: &[f64]| {
        assert_eq!(scores.len(), expected.len());
        for ((answer, score), expected) in answers.iter().zip(scores).zip(&expected) {
            let error = (score - expected).abs() / expected.abs();
            assert!(error <= 1e-5, "{what}, `{answer}`: {score}, one at a time {expected}");
        }
    };
    check("pipeline", &together);
    let engine = Engine::start(pipeline(), LIMITS).unwrap();
    let medium = engine.encode(prepared, &context).unwrap();
    // This caption shares every step with the scores, so that both kinds are in one batch.
    let endless = endless();
    let (cancel, flag) = Cancel::by_flag();
    let cancelled = RequestContext { cancel, ..context.clone() };
    std::thread::scope(|scope| {
        let caption = scope.spawn(|| ask(&engine, &medium, &Task::Caption {}, &endless, &cancelled));
        until(&engine, |load| load.rows == 1);
        let scores = engine.score(&prompt, &[&medium], &answers, &context).unwrap();
        // The scores have up to 9 rows, which the statistics may still count.
        let rows = engine.stats().snapshot().rows;
        assert!([1, 10].contains(&rows), "{rows} rows: the caption has ended before the scores");
        flag.set();
        assert!(matches!(caption.join().unwrap(), Err(ModelError::Cancelled)));
        check("engine", &scores);
    });
    let refused = engine.score(&prompt, &[], &answers, &context).unwrap_err();
    assert_eq!(refused.code(), "bad_prompt");
    assert!(engine.score(&prompt, &[&medium], &[], &context).unwrap().is_empty());
}

/// Waits until the statistics of the engine match: it returns an answer before it counts its memory as free.
fn until(engine: &Engine, true_of: impl Fn(&EngineSnapshot) -> bool) -> EngineSnapshot {
    let start = Instant::now();
    loop {
        let load = engine.stats().snapshot();
        if true_of(&load) {
            return load;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{load:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn at_rest(load: &EngineSnapshot) -> bool {
    (load.rows, load.kv_bytes, load.encoder.waiting, load.generator.waiting) == (0, 0, 0, 0)
}

/// A request that can never fit is rejected with its numbers; the others are answered.
#[test]
fn rejects_too_large_requests_and_answers_the_others() {
    let small = EngineLimits { kv_bytes: 8 << 20, ..LIMITS };
    let engine = Engine::start(pipeline(), small).unwrap();
    let context = RequestContext::default();
    let medium = engine.encode(vec![engine.prepare(&frames(1, 1)[0])], &context).unwrap();
    let long =
        Generation { strategy: Strategy::Beam { beams: 16, length_penalty: 0.0 }, max_new_tokens: 200 };
    let refused = ask(&engine, &medium, &Task::Caption {}, &long, &context).unwrap_err();
    let ModelError::Refused(error @ Error::OverBudget(_)) = &refused else { panic!("{refused}") };
    assert_eq!(error.code(), "over_budget");
    assert!(error.to_string().contains("16 rows of up to 200 more need"), "{error}");
    assert!(error.to_string().contains("engine.kv_bytes"), "{error}");
    ask(&engine, &medium, &Task::Caption {}, &strategy(0), &context).unwrap();

    let none = EngineLimits { kv_bytes: 1, ..LIMITS };
    assert!(Engine::start(pipeline(), none).is_err(), "an engine without memory started");
}

/// Returns the options of a caption that goes on until it is cancelled.
fn endless() -> Generation {
    let strategy = Strategy::Sample { temperature: 5.0, top_k: 0, top_p: 1.0, seed: 1 };
    Generation { strategy, max_new_tokens: 500 }
}

/// A cancelled request frees its memory for a waiting one.
#[test]
fn cancelled_requests_free_their_memory() {
    // Memory for one of the two requests.
    let block = pipeline().loaded().model.language().sizes().cache.block_bytes() as u64;
    let engine = Engine::start(pipeline(), EngineLimits { kv_bytes: 40 * block, ..LIMITS }).unwrap();
    let context = RequestContext::default();
    let medium = engine.encode(vec![engine.prepare(&frames(1, 1)[0])], &context).unwrap();
    let endless = endless();
    let (cancel, flag) = Cancel::by_flag();
    let cancelled = RequestContext { cancel, ..context.clone() };
    std::thread::scope(|scope| {
        let long = scope.spawn(|| ask(&engine, &medium, &Task::Caption {}, &endless, &cancelled));
        let one = until(&engine, |load| load.rows == 1);
        let next = scope.spawn(|| {
            let wide =
                Generation { strategy: Strategy::Beam { beams: 5, length_penalty: 0.0 }, max_new_tokens: 60 };
            ask(&engine, &medium, &Task::Caption {}, &wide, &context)
        });
        let two = until(&engine, |load| load.generator.waiting == 1);
        assert_eq!((two.rows, two.kv_bytes), (1, one.kv_bytes), "there was memory for both");
        flag.set();
        assert!(matches!(long.join().unwrap(), Err(ModelError::Cancelled)));
        next.join().unwrap().unwrap();
    });
    until(&engine, at_rest);
}

/// Returns few-shot examples of changing colours.
fn shots(model: &dyn Model) -> Vec<Shot> {
    let context = RequestContext::default();
    let shot = |i: usize| {
        let medium = model.encode(vec![model.prepare(&frames(i, 1)[0])], &context).unwrap();
        let text = ShotText { question: None, text: None, output: format!("a thing of colour {i}") };
        Shot { name: format!("{i}.png"), medium, text }
    };
    (0..6).map(shot).collect()
}

/// The examples of several queries are prefilled once. A sequence that needs their memory evicts them, and the next query
/// prefills them again, with the same answers.
#[test]
fn few_shot_examples_are_prefilled_once() {
    let (alone, context) = (pipeline(), RequestContext::default());
    let (short, wide) = (strategy(0), Generation { strategy: strategy(1).strategy, max_new_tokens: 160 });
    let texts: Vec<ShotText> = shots(&alone).into_iter().map(|shot| shot.text).collect();
    let times = vec![&[0.0][..]; texts.len() + 1];
    let blocks = |shots: &[ShotText], times: &[&[f64]], generation: &Generation| {
        alone.plan(&Task::Caption {}, shots, times, generation).unwrap().reservation().blocks()
    };
    // Memory for the wide sequence, or for the examples and some queries.
    let room = blocks(&[], &times[..1], &wide);
    assert!(room > blocks(&texts, &times, &short) + 2, "the queries do not fit");
    let block = alone.loaded().model.language().sizes().cache.block_bytes() as u64;
    let engine = Engine::start(pipeline(), EngineLimits { kv_bytes: room as u64 * block, ..LIMITS }).unwrap();
    let answers = |model: &dyn Model| -> Vec<Answer> {
        let shots = shots(model);
        let query = |i: usize| {
            if i == 3 {
                let medium = model.encode(vec![model.prepare(&frames(1, 1)[0])], &context).unwrap();
                return ask(model, &medium, &Task::Caption {}, &wide, &context).unwrap();
            }
            let medium = model.encode(vec![model.prepare(&frames(10 + i, 1)[0])], &context).unwrap();
            model.ask(&[Task::Caption {}], shots[..].into(), &[&medium], &short, &context).remove(0).unwrap()
        };
        (0..5).map(query).collect()
    };
    let (expected, got) = (answers(&alone), answers(&engine));
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!((&got.text, got.shots), (&expected.text, expected.shots), "query {i}");
        likelihood::assert_same(&format!("query {i}"), got.log_likelihood, expected.log_likelihood);
    }
    assert_eq!(got[0].shots, texts.len());
    let load = until(&engine, at_rest);
    assert_eq!(load.prefixes, PrefixCounts { memory: 2, disk: 0, missed: 2 });
    assert!(load.prefix_bytes >= block, "{load:?}");
}

/// 1000 requests of one job wait when another job sends its first. The answer comes while most of the 1000 still wait: a
/// queue in order of arrival would answer it last. The test counts waiting requests, so it does not depend on the clock.
#[test]
fn a_large_job_does_not_starve_a_small_one() {
    const QUESTIONS: usize = 1000;
    let engine = Engine::start(pipeline(), LIMITS).unwrap();
    let generation = Generation { strategy: Strategy::Greedy {}, max_new_tokens: 24 };
    let (cancel, cancel_large) = Cancel::by_flag();
    let large = RequestContext { job: "large".into(), cancel, ..RequestContext::default() };
    let small = RequestContext { job: "small".into(), ..RequestContext::default() };
    let medium = engine.encode(vec![engine.prepare(&frames(2, 1)[0])], &large).unwrap();
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            engine.ask(&vec![Task::Caption {}; QUESTIONS], Shots::default(), &[&medium], &generation, &large)
        });
        // The decoder is full, and all other requests wait.
        until(&engine, |load| load.rows == LIMITS.rows && load.generator.waiting >= QUESTIONS * 3 / 4);
        ask(&engine, &medium, &Task::Caption {}, &generation, &small).unwrap();
        let waiting = engine.stats().snapshot().generator.waiting;
        cancel_large.set();
        let answers = answers.join().unwrap();
        assert!(
            waiting >= QUESTIONS / 2,
            "only {waiting} of {QUESTIONS} requests waited when the small job had its answer"
        );
        let cancelled = answers.iter().filter(|answer| matches!(answer, Err(ModelError::Cancelled))).count();
        assert!(cancelled >= QUESTIONS / 4, "only {cancelled} requests were cancelled");
    });
}
